"""Former names of options: accepted as flags and YAML keys, with a `RenamedOptionWarning`."""

from __future__ import annotations

import warnings
from collections.abc import Iterable

from .spec import OptionSpec


class RenamedOptionWarning(DeprecationWarning):
    """An option was given by a former name."""


def former_names(specs: Iterable[OptionSpec]) -> dict[str, OptionSpec]:
    """Map every former name to its option."""
    return {alias: spec for spec in specs for alias in spec.aliases}


def warn_renamed(old: str, new: str) -> None:
    """Warn that the option `old` is now called `new`, each as a flag or as a YAML key."""
    warnings.warn(f"{old} is now {new}", RenamedOptionWarning, stacklevel=3)
