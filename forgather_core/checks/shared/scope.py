"""The scope of a run of `verify`."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Scope:
    """The checks and cases that a run of `verify` includes.

    Args:
        quick: Leave out slow checks, and slow ways to call a model.
        strength: Number of factors whose levels call-agreement combines: every pair (2) or every triple (3).
        case: The id of the only case of call-agreement to run; None runs all.
    """

    quick: bool = False
    strength: int = 2
    case: str | None = None


DEFAULT_SCOPE = Scope()
