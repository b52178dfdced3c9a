"""The scope of a run of `verify`."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Scope:
    """The checks and cases that a run of `verify` includes.

    Args:
        quick: Leave out slow checks, and slow ways to call a model.
        strength: Number of ways to call a model that are combined: every pair (2) or every triple (3).
        case: The id of the only way to call the model that is checked; None checks all.
    """

    quick: bool = False
    strength: int = 2
    case: str | None = None


DEFAULT_SCOPE = Scope()
