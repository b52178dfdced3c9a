"""Read, write and remove single files and directories, and make them durable."""

from __future__ import annotations

import errno
import os
import stat
import threading
from collections.abc import Iterable
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

from .posix import CLOEXEC, NOFOLLOW, NONBLOCKING

_WRITE_CHUNK = 32 * 2**20  # bytes: one system call writes at most 2 GiB
_READ_CHUNK = 4 * 2**20  # bytes
_SYNCED_TOGETHER = 64  # files that are open at the same time
_SYNC_FILE_RANGE_WRITE = 2  # Linux
_NOT_REGULAR = "it is not a regular file"


def remove_files(files: Iterable[Path]) -> None:
    """Remove files. On return their names are removed. A background thread then frees their disk space."""
    held = []
    for file in files:
        with suppress(OSError):
            held.append(open_regular(file, follow=False))
        file.unlink(missing_ok=True)
    if held:
        threading.Thread(target=_close_all, args=(held,)).start()


def forget_pages(files: Iterable[Path]) -> None:
    """Let the system drop the cached pages of files that are about to be replaced, to free memory for the new files."""
    for file in files:
        with suppress(OSError, AttributeError):
            descriptor = open_regular(file)
            try:
                os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            finally:
                os.close(descriptor)


def _close_all(descriptors: Iterable[int]) -> None:
    for descriptor in descriptors:
        os.close(descriptor)


def make_directory(path: Path) -> None:
    """Create a directory and its missing parents, durably."""
    path = path.resolve()
    missing = [parent for parent in (path, *path.parents) if not parent.exists()]
    for parent in reversed(missing):
        parent.mkdir(exist_ok=True)
        sync_directory(parent.parent)


class UnsuitableFile(OSError):  # noqa: N818 - named like FileNotFoundError
    """A file exists, but is not a regular file or is too large. The message gives the reason without the path."""

    def __str__(self) -> str:
        return str(self.strerror)


def open_regular(path: Path, *, follow: bool = True) -> int:
    """Open a regular file for reading and return its descriptor. Pipes and devices, which can block, are not opened.

    Args:
        path: The file.
        follow: Whether to follow a symbolic link; otherwise it is refused.

    Raises:
        UnsuitableFile: The path is not a regular file (EINVAL).
        OSError: The file is missing or cannot be read.
    """
    if not stat.S_ISREG(path.stat(follow_symlinks=follow).st_mode):  # before opening, which affects some devices
        raise UnsuitableFile(errno.EINVAL, _NOT_REGULAR, str(path))
    links = 0 if follow else NOFOLLOW
    descriptor = os.open(path, os.O_RDONLY | NONBLOCKING | CLOEXEC | links)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise UnsuitableFile(errno.EINVAL, _NOT_REGULAR, str(path))
    return descriptor


def read_regular(path: Path, limit: int, *, follow: bool = True) -> bytes:
    """Return the content of a regular file of at most `limit` bytes.

    Args:
        path: The file.
        limit: Maximum size in bytes.
        follow: As in `open_regular`.

    Raises:
        UnsuitableFile: The path is not a regular file (EINVAL), or the file is larger than `limit` (EFBIG).
        OSError: The file is missing or cannot be read.
    """
    descriptor = open_regular(path, follow=follow)
    try:
        size = os.fstat(descriptor).st_size
        data = bytearray()
        while size <= limit and len(data) <= limit:  # files of /proc have size 0, and any may grow
            part = os.read(descriptor, min(_READ_CHUNK, limit + 1 - len(data)))
            if not part:
                return bytes(data)
            data += part
    finally:
        os.close(descriptor)
    raise UnsuitableFile(errno.EFBIG, f"it is larger than the supported {limit:,} bytes", str(path))


def read_into(descriptor: int, memory: memoryview, offset: int) -> None:
    """Fill `memory` with the bytes of a file, starting at byte `offset`.

    Raises:
        OSError: The disk fails, or the file ends too early (EIO) because it was truncated after it was opened.
    """
    while memory.nbytes:
        count = os.preadv(descriptor, [memory], offset)
        if count == 0:
            raise OSError(errno.EIO, "it ends too early: it was truncated while it was open")
        memory, offset = memory[count:], offset + count


def read_bytes(descriptor: int, count: int, offset: int) -> bytes:
    """Return `count` bytes of a file, starting at byte `offset`.

    Raises:
        OSError: The disk fails, or the file ends too early (EIO).
    """
    data = bytearray(count)
    read_into(descriptor, memoryview(data), offset)
    return bytes(data)


def write_fully(descriptor: int, memory: memoryview) -> None:
    """Write all of `memory` at the current position of a file.

    Raises:
        OSError: The disk is full, or fails.
    """
    while memory.nbytes:
        memory = memory[os.write(descriptor, memory[:_WRITE_CHUNK]) :]


def replace_file(path: Path, data: bytes) -> None:
    """Write a file atomically. If the disk is full, the old content remains. A link is kept; its target is replaced.

    Raises:
        OSError: The file cannot be written.
    """
    path = path.resolve()
    old = path.stat() if path.exists() else None
    if old is not None and not stat.S_ISREG(old.st_mode):  # /dev/stdout, a pipe
        path.write_bytes(data)
        return
    new = path.with_name(f".{path.name[:100]}.{os.getpid()}.tmp")
    descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | CLOEXEC, 0o666)
    try:
        try:
            write_fully(descriptor, memoryview(data))
        finally:
            os.close(descriptor)
        if old is not None:
            new.chmod(stat.S_IMODE(old.st_mode))
        new.replace(path)
    except BaseException:
        new.unlink(missing_ok=True)
        raise


def start_writeback(descriptor: int, offset: int, count: int) -> None:
    """Start writing a part of a file to the disk, if the system supports it.

    Args:
        descriptor: The file.
        offset: First byte of the part.
        count: Length in bytes; 0 for everything up to the end.
    """
    if (start := _writeback()) is not None:
        start(descriptor, offset, count, _SYNC_FILE_RANGE_WRITE)


@cache
def _writeback() -> Any:
    import ctypes  # imported here because help pages make no system calls

    function = getattr(ctypes.CDLL(None), "sync_file_range", None) if os.name == "posix" else None
    if function is not None:
        function.argtypes = (ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_uint)
    return function


def sync_file(descriptor: int) -> None:
    """Make a file's content durable."""
    os.fsync(descriptor)


def sync_directory(directory: Path) -> None:
    """Make a directory's entries durable."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_tree(root: Path) -> None:
    """Make every file and directory below `root` durable, then `root`."""
    for directory, _, files in os.walk(root, topdown=False):
        for first in range(0, len(files), _SYNCED_TOGETHER):
            _sync_files(Path(directory) / name for name in files[first : first + _SYNCED_TOGETHER])
        sync_directory(Path(directory))


def _sync_files(paths: Iterable[Path]) -> None:
    """Make files durable. Writeback of all files starts before the wait for the first one."""
    descriptors = []
    try:
        for path in paths:
            # A pipe or an unreadable file is a hard link to another program's file, which that program makes durable.
            with suppress(UnsuitableFile, PermissionError):
                descriptors.append(open_regular(path, follow=False))
        for descriptor in descriptors:
            start_writeback(descriptor, 0, 0)
        for descriptor in descriptors:
            sync_file(descriptor)
    finally:
        _close_all(descriptors)
