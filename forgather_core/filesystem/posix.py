"""What POSIX systems have and Windows lacks.

Every module imports on Windows, and definitions can be listed, shown and estimated there. Writing model directories and
reading weights requires locks and positioned reads, and is refused.
"""

from __future__ import annotations

import os
import sys

from ..errors import ForgatherError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

# Flags of os.open; 0 where the system has no such flag.
CLOEXEC = getattr(os, "O_CLOEXEC", 0)
DIRECTORY = getattr(os, "O_DIRECTORY", 0)
NOFOLLOW = getattr(os, "O_NOFOLLOW", 0)
# Neither a pipe without a writer nor a terminal holds up who opens it, and bytes are read as they are.
UNBLOCKED = getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_NOCTTY", 0) | getattr(os, "O_BINARY", 0)

_DESCRIPTORS = 512  # of a process on Windows, at least


def require_posix(what: str) -> None:
    """Refuse what this system cannot do.

    Args:
        what: A noun phrase, the subject of the message.

    Raises:
        ForgatherError: The system has no POSIX locks.
    """
    if fcntl is None:
        raise ForgatherError(f"{what} is not supported on Windows: use the Windows Subsystem for Linux (WSL)")


def lock_file(descriptor: int, *, wait: bool = False) -> None:
    """Lock an open file or directory for this process alone, until the descriptor is closed.

    Raises:
        BlockingIOError: Another process holds it, and `wait` is False.
        OSError: The file system has no locks.
    """
    fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))


def descriptor_limit() -> int:
    """How many files this process may have open."""
    if fcntl is None:
        return _DESCRIPTORS
    import resource  # help pages need no limits

    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]


def peak_memory() -> int:
    """Largest resident size of this process since it began, in bytes."""
    import resource

    held = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return held if sys.platform == "darwin" else held * 1024  # Linux counts KiB
