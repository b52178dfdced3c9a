"""The cache into which transformers copies the code of a model directory before importing it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ..errors import ForgatherError

_HINT = "set HF_HOME to a writable directory"


def require_code_cache(error: type[ForgatherError]) -> Path:
    """Create the cache if necessary and return its path.

    Args:
        error: Class of the error to raise if the cache is not writable.
    """
    from transformers.dynamic_module_utils import HF_MODULES_CACHE

    cache = Path(HF_MODULES_CACHE)
    try:
        cache.mkdir(parents=True, exist_ok=True)
        writable = os.access(cache, os.W_OK | os.X_OK)
    except OSError as reason:
        raise error(_problem(reason.strerror or str(reason)), file=cache, hint=_HINT) from None
    if not writable:
        raise error(_problem("permission denied"), file=cache, hint=_HINT)
    return cache


@contextmanager
def code_cache(error: type[ForgatherError]) -> Iterator[None]:
    """Raise `error` if the cache is not writable while code is loaded within the block."""
    cache = require_code_cache(error)
    try:
        yield
    except OSError as reason:
        file = reason.filename2 or reason.filename
        if file is None or not Path(os.fsdecode(file)).is_relative_to(cache):
            raise
        raise error(_problem(reason.strerror or str(reason)), file=cache, hint=_HINT) from None


def _problem(reason: str) -> str:
    return f"is not writable ({reason}), but transformers stores the code of models there"
