"""Handle standard streams that are closed, full, or without a reader."""

from __future__ import annotations

import errno
import io
import os
import sys
from contextlib import suppress
from typing import Any

from forgather_core.errors import access_hint

_NAMES = ("stdin", "stdout", "stderr")
_CLOSED = "standard output is closed: redirect it to a file or a terminal"


def prepare_streams() -> None:
    """Reopen closed standard streams, and escape characters that the encoding of a stream does not support.

    Python sets a closed stream to None, and the next opened file would reuse its descriptor, so that the output of a
    library would go to that file. A closed standard output is replaced by a stream that cannot be written, so that
    losing a report is an error. Output to a closed standard error is discarded.
    """
    for descriptor, name in enumerate(_NAMES):
        if getattr(sys, name) is None:
            setattr(sys, name, _opened(descriptor))
    for stream in (sys.stdout, sys.stderr):
        with suppress(AttributeError):
            stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]


def _opened(descriptor: int) -> Any:
    with suppress(OSError):
        os.fstat(descriptor)
        descriptor = -1  # already reused
    new = os.open(os.devnull, os.O_RDONLY if descriptor == 1 else os.O_RDWR)
    if descriptor not in (-1, new):
        os.dup2(new, descriptor)
        os.close(new)
    elif new == descriptor:
        os.set_inheritable(new, True)
    used = new if descriptor == -1 else descriptor
    return os.fdopen(used, "r" if descriptor == 0 else "w", encoding="utf-8", closefd=False)


def output_problem(error: OSError) -> str | None:
    """Return why standard output cannot be written, or None if `error` has another cause."""
    if error.filename is not None:
        return None
    try:
        sys.stdout.flush()  # the buffer may still contain unwritten output
        os.write(sys.stdout.fileno(), b"")
    except io.UnsupportedOperation:  # a stream in memory
        return None
    except OSError as reason:
        closed = reason.errno == errno.EBADF
        if closed:
            return _CLOSED
        return f"standard output cannot be written: {reason.strerror}: {access_hint(reason)}"
    except ValueError:
        return _CLOSED
    return None


def print_stderr(text: str) -> None:
    """Print a line on standard error, ignoring errors."""
    with suppress(OSError, ValueError):
        print(text, file=sys.stderr)


def discard_unwritten() -> None:
    """Discard unwritten output, so that Python does not fail again at exit with another exit code."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError):
            with suppress(OSError, ValueError):
                os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
