"""The cache into which transformers copies the code of a model directory before it imports it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ..errors import ForgatherError

_ADVICE = "set HF_HOME to a directory that can be written to"


def require_code_cache(error: type[ForgatherError]) -> Path:
    """Make the cache, and return its path.

    Args:
        error: Raised with one line if the cache cannot be written: it is not the model directory that is at fault.
    """
    from transformers.dynamic_module_utils import HF_MODULES_CACHE

    place = Path(HF_MODULES_CACHE)
    try:
        place.mkdir(parents=True, exist_ok=True)
        writable = os.access(place, os.W_OK | os.X_OK)
    except OSError as reason:
        raise error(_refusal(place, reason.strerror or str(reason))) from None
    if not writable:
        raise error(_refusal(place, "permission denied"))
    return place


@contextmanager
def code_cache(error: type[ForgatherError]) -> Iterator[None]:
    """Load code within this block; a cache that cannot be written, at first or later, is raised as `error`."""
    place = require_code_cache(error)
    try:
        yield
    except OSError as reason:
        file = reason.filename2 or reason.filename
        if file is None or not Path(os.fsdecode(file)).is_relative_to(place):
            raise
        raise error(_refusal(place, reason.strerror or str(reason))) from None


def _refusal(place: Path, reason: str) -> str:
    return f"{place}, where transformers keeps the code of models, cannot be written: {reason}; {_ADVICE}"
