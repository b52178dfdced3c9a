"""Standard streams as the caller leaves them: closed, full, or without a reader."""

from __future__ import annotations

import errno
import io
import os
import sys
from contextlib import suppress
from typing import Any

_NAMES = ("stdin", "stdout", "stderr")


def prepare_streams() -> None:
    """Open streams that the caller has closed, and let output of any encoding show escapes.

    Python has None for a closed stream, and the next file that is opened would get its descriptor: what a library
    prints would go into that file. Standard output becomes a stream that cannot be written, so that a report that is
    lost is an error; what goes to standard error is dropped.
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
        descriptor = -1  # something else has it by now
    new = os.open(os.devnull, os.O_RDONLY if descriptor == 1 else os.O_RDWR)
    if descriptor not in (-1, new):
        os.dup2(new, descriptor)
        os.close(new)
    elif new == descriptor:
        os.set_inheritable(new, True)
    used = new if descriptor == -1 else descriptor
    return os.fdopen(used, "r" if descriptor == 0 else "w", encoding="utf-8", closefd=False)


def output_problem(error: OSError) -> str | None:
    """Return why standard output cannot be written, if that is what `error` is about."""
    if error.filename is not None:
        return None
    try:
        sys.stdout.flush()  # what could not be written may still be in its buffer
        os.write(sys.stdout.fileno(), b"")
    except io.UnsupportedOperation:  # a stream in memory
        return None
    except OSError as reason:
        closed = reason.errno == errno.EBADF
        return "standard output is closed" if closed else f"standard output cannot be written: {reason.strerror}"
    except ValueError:
        return "standard output is closed"
    return None


def say(text: str) -> None:
    """Print a line on standard error. If that cannot be written, the work goes on."""
    with suppress(OSError, ValueError):
        print(text, file=sys.stderr)


def discard_unwritten() -> None:
    """Drop what a stream could not write, or Python would fail again at exit, with a code of its own."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError):
            with suppress(OSError, ValueError):
                os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
