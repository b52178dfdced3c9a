"""Descriptors and memory maps of weight files. Few are open at a time, even with thousands of shards."""

from __future__ import annotations

import ctypes
import mmap
import os
import sys
import threading
import weakref
from collections import Counter, OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager

from ...filesystem.posix import descriptor_limit, require_posix

_FEWEST, _MOST = 32, 512  # limits of the number of open descriptors

Mapping = mmap.mmap | ctypes.Array[ctypes.c_char]


class _OpenFiles:
    """A pool of weight file descriptors that leaves most descriptors of the process for other uses."""

    def __init__(self) -> None:
        self._descriptors: OrderedDict[object, int] = OrderedDict()  # by file, most recently used last
        self._pins: Counter[object] = Counter()
        self._lock = threading.Lock()

    def add(self, file: object, descriptor: int) -> int:
        """Take ownership of a descriptor, and return the descriptor to use. Closes old ones above the limit."""
        most = min(_MOST, max(_FEWEST, descriptor_limit() // 4))
        with self._lock:
            known = self._descriptors.setdefault(file, descriptor)
            closed = [descriptor] if known != descriptor else []  # another thread has opened the file too
            extra = len(self._descriptors) - most
            for other in [key for key in self._descriptors if key is not file and not self._pins[key]][: max(0, extra)]:
                closed.append(self._descriptors.pop(other))
        for number in closed:
            os.close(number)
        return known

    def get(self, file: object) -> int | None:
        """Return the descriptor of a file, or None if it has been closed."""
        with self._lock:
            if file in self._descriptors:
                self._descriptors.move_to_end(file)
            return self._descriptors.get(file)

    @contextmanager
    def pinned(self, file: object) -> Iterator[None]:
        """Keep the descriptor of a file open within the block, whatever other threads open."""
        with self._lock:
            self._pins[file] += 1
        try:
            yield
        finally:
            with self._lock:
                self._pins[file] -= 1
                if not self._pins[file]:
                    del self._pins[file]

    def close(self, file: object) -> None:
        """Close a file."""
        with self._lock:
            descriptor = self._descriptors.pop(file, None)
        if descriptor is not None:
            os.close(descriptor)


OPEN_FILES = _OpenFiles()


def identity(found: os.stat_result) -> tuple[int, int]:
    """Return device and inode, which identify a file for as long as it exists."""
    return found.st_dev, found.st_ino


def map_privately(descriptor: int, size: int) -> Mapping:
    """Map a file into memory that is private to this process, without keeping a descriptor.

    Raises:
        OSError: The file cannot be mapped.
        ValueError: The file has been truncated.
    """
    require_posix("reading checkpoints")
    if sys.version_info >= (3, 13):
        return mmap.mmap(descriptor, size, access=mmap.ACCESS_COPY, trackfd=False)
    return _map_by_system(descriptor, size)  # before Python 3.13, a map keeps a descriptor


def _map_by_system(descriptor: int, size: int) -> ctypes.Array[ctypes.c_char]:
    if size == 0 or os.fstat(descriptor).st_size < size:
        raise ValueError("it has been truncated")
    library = ctypes.CDLL(None, use_errno=True)
    kinds = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_longlong)
    library.mmap.argtypes, library.mmap.restype = kinds, ctypes.c_void_p
    library.munmap.argtypes = kinds[:2]
    address = library.mmap(None, size, mmap.PROT_READ | mmap.PROT_WRITE, mmap.MAP_PRIVATE, descriptor, 0)
    if address == ctypes.c_void_p(-1).value:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    memory = (ctypes.c_char * size).from_address(address)
    weakref.finalize(memory, library.munmap, address, size).atexit = False  # tensors may live until the very end
    return memory
