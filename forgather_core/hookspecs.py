"""The hooks that a plugin may implement."""

from __future__ import annotations

from collections.abc import Iterable

import pluggy

from .definition import ModelDefinition

PROJECT = "forgather"
ENTRY_POINT_GROUP = "forgather.models"

hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)


class ForgatherHooks:
    """Implement these as functions of the module that the entry point names, marked with `@hookimpl`."""

    @hookspec
    def forgather_models(self) -> Iterable[ModelDefinition]:  # type: ignore[empty-body]
        """Yield the model definitions of this plugin.

        Called once a process, and only when a definition of the plugin is asked for.
        The module must not import torch: name the configuration and model classes as strings.
        """
