"""Recognize exceptions that mean out of memory, and describe them in one line. Does not import torch."""

from __future__ import annotations

import errno
import re
from collections.abc import Iterator

# torch has its own class for devices (OutOfMemoryError, a RuntimeError). On the CPU it raises RuntimeError; a library
# whose allocation fails raises its own error class with the system's message.
_TEXTS = (
    "not enough memory",
    "can't allocate memory",
    "cannot allocate memory",
    "unable to allocate",
    "out of memory",
    "std::bad_alloc",
    "bad allocation",
    "alloc_failed",
)
_OVERFLOWS = ("storage size calculation overflowed", "integer multiplication overflow")  # also on the meta device
_SIZES = (
    re.compile(r"tried to allocate ([\d.]+ [KMGT]iB)", re.IGNORECASE),
    re.compile(r"tried to allocate (\d+) bytes", re.IGNORECASE),
)
ADVICE = "use a smaller model, batch or text, or another device"


def out_of_memory(error: BaseException) -> str | None:
    """Return one line about an exception that means out of memory; None for any other exception.

    Args:
        error: The exception. Its causes are checked too.
    """
    for cause in _chain(error):
        if _is_out_of_memory(cause):
            if any(words in str(cause).lower() for words in _OVERFLOWS):
                return "out of memory: a tensor is larger than the memory of any device; use a smaller model or batch"
            size = _size(str(cause))
            return f"out of memory{f': {size} could not be allocated' if size else ''}; {ADVICE}"
    return None


def _chain(error: BaseException) -> Iterator[BaseException]:
    seen: set[int] = set()
    current: BaseException | None = error
    while current is not None and id(current) not in seen:
        seen.add(id(current))
        yield current
        current = current.__cause__ or (None if current.__suppress_context__ else current.__context__)


def _is_out_of_memory(error: BaseException) -> bool:
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno == errno.ENOMEM
    # Errors of other classes may quote any text: libraries raise these for a failed allocation.
    if not isinstance(error, (RuntimeError, ImportError, OSError)) and "Safetensor" not in type(error).__name__:
        return False
    text = str(error).lower()
    return any(words in text for words in (*_TEXTS, *_OVERFLOWS))


def _size(text: str) -> str | None:
    found = next((match[1] for pattern in _SIZES if (match := pattern.search(text))), None)
    return format_bytes(int(found)) if found is not None and found.isdigit() else found


def format_bytes(size: float) -> str:
    """Format a number of bytes for a message: `3.5 GiB`."""
    units = ("bytes", "KiB", "MiB", "GiB", "TiB", "PiB")
    for unit in units:
        if size < 1024 or unit == units[-1]:
            break
        size /= 1024
    return f"{size:,.0f} {unit}" if unit == "bytes" else f"{size:,.1f} {unit}"
