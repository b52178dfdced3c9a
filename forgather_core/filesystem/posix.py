"""Functions of POSIX systems that Windows lacks.

Every module can be imported on Windows, and definitions can be listed, shown and estimated there. Writing model
directories and reading weights is not supported there, because it requires file locks and positioned reads.
"""

from __future__ import annotations

import os
import sys

from ..errors import ForgatherError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

# Flags of os.open; 0 if the system does not have the flag.
CLOEXEC = getattr(os, "O_CLOEXEC", 0)
DIRECTORY = getattr(os, "O_DIRECTORY", 0)
NOFOLLOW = getattr(os, "O_NOFOLLOW", 0)
# Opening a pipe without a writer or a terminal does not block, and bytes are read unchanged.
NONBLOCKING = getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_NOCTTY", 0) | getattr(os, "O_BINARY", 0)

_DESCRIPTORS = 512  # the default limit of a process on Windows


def require_posix(operation: str) -> None:
    """Refuse an operation that this system does not support.

    Args:
        operation: The operation as a noun phrase: "writing directories".

    Raises:
        ForgatherError: The system has no POSIX locks.
    """
    if fcntl is None:
        hint = "use the Windows Subsystem for Linux (WSL)"
        raise ForgatherError(f"{operation} is not supported on Windows", hint=hint)


def lock_file(descriptor: int, *, wait: bool = False) -> None:
    """Lock an open file or directory exclusively, until the descriptor is closed.

    Raises:
        BlockingIOError: Another process holds the lock, and `wait` is False.
        OSError: The file system has no locks.
    """
    fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))


def descriptor_limit() -> int:
    """Return the maximum number of files that this process may have open."""
    if fcntl is None:
        return _DESCRIPTORS
    import resource  # imported here because help pages do not need it

    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]


def peak_memory() -> int:
    """Return the peak resident memory of this process in bytes."""
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # Linux counts KiB
