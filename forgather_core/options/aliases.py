"""Former names of options: accepted as flags and YAML keys, with a `RenamedOptionWarning`."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from typing import Unpack

from ..errors import ForgatherError, Place
from .spec import OptionSpec


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
    warnings.warn(str(ForgatherError(f"is now {new}", **old)), RenamedOptionWarning, stacklevel=3)
