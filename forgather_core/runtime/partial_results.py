"""Keep partial results when work ends early: interrupted, out of memory, or by an error of the model."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from ..errors import first_line


@contextmanager
def keep_partial(keep: Callable[[str], None] | None) -> Iterator[None]:
    """Call `keep` with the reason if the block raises anything, Ctrl-C included; the exception propagates.

    Args:
        keep: Receives the reason and keeps the results so far; None drops them.
    """
    try:
        yield
    except BaseException as error:
        if keep is not None:
            keep(_reason(error))
        raise


def _reason(error: BaseException) -> str:
    if isinstance(error, KeyboardInterrupt):
        return "interrupted"
    from .out_of_memory import out_of_memory  # imported here because a successful run does not need it

    return "out of memory" if out_of_memory(error) else first_line(error)
