"""The hooks that a plugin may implement."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import pluggy

from .definition import ModelDefinition

if TYPE_CHECKING:
    from ..checks import Check

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

    @hookspec
    def forgather_checks(self) -> Iterable[Check]:  # type: ignore[empty-body]
        """Yield further checks, for `forgather model verify` and the tests of `forgather_core.testing`.

        Called by these alone, and may import torch within. They are tried on every model, also on other plugins': a
        check of what only some models promise raises `DoesNotApply` for the rest. No two may have one name.
        """
