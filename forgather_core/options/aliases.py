"""Former names of options: accepted as flags and YAML keys, with a `RenamedOptionWarning`."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterable
from typing import Unpack

from ..errors import ForgatherError, Place
from .spec import OptionSpec

_OWN = frozenset({"forgather", "forgather_cli", "forgather_core"})  # packages


class RenamedOptionWarning(DeprecationWarning):
    """An option was given by a former name."""


def former_names(specs: Iterable[OptionSpec]) -> dict[str, OptionSpec]:
    """Map every former name to its option."""
    return {alias: spec for spec in specs for alias in spec.aliases}


def warn_renamed_option(new: str, **old: Unpack[Place]) -> None:
    """Warn that an option has a new name.

    Args:
        new: The new flag or YAML key.
        **old: The place of the former name (see `Place`): the flag, or the YAML key with its file and line.
    """
    warnings.warn(str(ForgatherError(f"is now {new}", **old)), RenamedOptionWarning, stacklevel=_level_of_caller())


def _level_of_caller() -> int:
    """Return the stack level of the code that called Forgather: Python shows a deprecation only in the main module."""
    level, frame = 1, sys._getframe(1)
    while frame.f_back is not None and frame.f_globals.get("__name__", "").partition(".")[0] in _OWN:
        level, frame = level + 1, frame.f_back
    return level
