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
        against: Another implementation to compare with: a model directory, or a class or model type of transformers.
        parallel: The sizes of the mesh that parallel-agreement compares with a single process; None skips it.
        trust_remote_code: Run code of directories that Forgather did not write.
    """

    quick: bool = False
    strength: int = 2
    case: str | None = None
    against: str | None = None
    parallel: str | None = None
    trust_remote_code: bool = False


DEFAULT_SCOPE = Scope()
