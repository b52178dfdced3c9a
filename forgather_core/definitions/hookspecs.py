"""The hooks that a plugin can implement."""

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
    """Hook specifications. Implement them as functions in the module of the entry point, decorated with `@hookimpl`."""

    @hookspec
    def forgather_models(self) -> Iterable[ModelDefinition]:  # type: ignore[empty-body]
        """Yield the model definitions of this plugin.

        Called once per process, when a definition of the plugin is first requested. The module must not import torch:
        refer to the configuration and model classes by strings.
        """

    @hookspec
    def forgather_checks(self) -> Iterable[Check]:  # type: ignore[empty-body]
        """Yield additional checks for `forgather model verify` and the tests of `forgather_core.testing`.

        Only these call the hook, so it may import torch. The checks run on every model, including those of other
        plugins: a check that applies only to some models raises `DoesNotApply` for all others. Names must be unique.
        """
