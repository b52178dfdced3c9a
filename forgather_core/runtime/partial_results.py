"""Keep what was measured when work ends early: interrupted, out of memory, or by a model that fails."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from ..errors import first_line


@contextmanager
def keep_partial(keep: Callable[[str], None] | None) -> Iterator[None]:
    """Call `keep` with the reason if the block raises anything, Ctrl-C included; what it raises passes on.

    Args:
        keep: Receives the reason and passes on what was found so far; None drops it.
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
    from .out_of_memory import out_of_memory  # a run that ends as it should needs none of this

    return "out of memory" if out_of_memory(error) else first_line(error)
