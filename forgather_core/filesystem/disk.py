"""Single files and directories as the system has them: read and written to the end, made durable, removed."""

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

from .posix import CLOEXEC, NOFOLLOW, UNBLOCKED

_WRITE_CHUNK = 32 * 2**20  # bytes: one call of the system takes at most 2 GiB
_READ_CHUNK = 4 * 2**20  # bytes
_SYNCED_TOGETHER = 64  # files that are open at a time
_SYNC_FILE_RANGE_WRITE = 2  # of Linux
_NOT_REGULAR = "it is no regular file"


def remove_files(files: Iterable[Path]) -> None:
    """Remove files whose names are gone on return; their space is freed meanwhile, which takes time for large ones."""
    held = []
    for file in files:
        with suppress(OSError):
            held.append(open_regular(file, follow=False))
        file.unlink(missing_ok=True)
    if held:
        threading.Thread(target=_close_all, args=(held,)).start()


def forget_pages(files: Iterable[Path]) -> None:
    """Let the system drop what it holds in memory of files that are to be replaced: the new ones get those pages."""
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
    """Make a directory and those above it that are missing, durably."""
    path = path.resolve()
    missing = [parent for parent in (path, *path.parents) if not parent.exists()]
    for parent in reversed(missing):
        parent.mkdir(exist_ok=True)
        sync_directory(parent.parent)


class UnsuitableFile(OSError):  # noqa: N818 - it names the file, as FileNotFoundError does
    """A file that is there, but is not a regular one or is too large. Its text is a reason, without the path."""

    def __str__(self) -> str:
        return str(self.strerror)


def open_regular(path: Path, *, follow: bool = True) -> int:
    """A descriptor to read a regular file with. Nothing else is opened, so that no pipe or device can block.

    Args:
        path: The file.
        follow: Whether a symbolic link is followed; otherwise it is refused.

    Raises:
        UnsuitableFile: It is not a regular file (EINVAL).
        OSError: It is missing or cannot be read.
    """
    if not stat.S_ISREG(path.stat(follow_symlinks=follow).st_mode):  # before opening: some devices act on that
        raise UnsuitableFile(errno.EINVAL, _NOT_REGULAR, str(path))
    links = 0 if follow else NOFOLLOW
    descriptor = os.open(path, os.O_RDONLY | UNBLOCKED | CLOEXEC | links)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise UnsuitableFile(errno.EINVAL, _NOT_REGULAR, str(path))
    return descriptor


def read_regular(path: Path, limit: int, *, follow: bool = True) -> bytes:
    """Return the content of a regular file of at most `limit` bytes.

    Args:
        path: The file.
        limit: Largest size that is read, in bytes.
        follow: As in `open_regular`.

    Raises:
        UnsuitableFile: It is not a regular file (EINVAL), or is larger than `limit` (EFBIG).
        OSError: It is missing or cannot be read.
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
    raise UnsuitableFile(errno.EFBIG, f"it has more than the {limit:,} bytes that are read", str(path))


def read_into(descriptor: int, memory: memoryview, offset: int) -> None:
    """Fill `memory` with the bytes of a file from `offset` on.

    Raises:
        OSError: The disk fails, or the file ends before (EIO): it has been truncated since its size was looked at.
    """
    while memory.nbytes:
        count = os.preadv(descriptor, [memory], offset)
        if count == 0:
            raise OSError(errno.EIO, "it ends too early: something has truncated it")
        memory, offset = memory[count:], offset + count


def read_bytes(descriptor: int, count: int, offset: int) -> bytes:
    """`count` bytes of a file from `offset` on; raises as `read_into`."""
    data = bytearray(count)
    read_into(descriptor, memoryview(data), offset)
    return bytes(data)


def write_fully(descriptor: int, memory: memoryview) -> None:
    """Append all of `memory` to a file; a disk that takes only part of it raises OSError at the next part."""
    while memory.nbytes:
        memory = memory[os.write(descriptor, memory[:_WRITE_CHUNK]) :]


def replace_file(path: Path, data: bytes) -> None:
    """Write a file whole or not at all: a full disk leaves what stood there. A link stays, and its target is replaced.

    Raises:
        OSError: It cannot be written.
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
    """Let the disk begin to take part of a file that has been written, where the system can be asked to.

    Args:
        descriptor: The file.
        offset: First byte of the part.
        count: Its length in bytes; 0 for all up to the end.
    """
    if (start := _writeback()) is not None:
        start(descriptor, offset, count, _SYNC_FILE_RANGE_WRITE)


@cache
def _writeback() -> Any:
    import ctypes  # help pages need no system calls

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
    """Make files durable: the disk begins with all of them before one is waited for."""
    descriptors = []
    try:
        for path in paths:
            # Files of others are links here, whose content is on disk as far as they saw to it: a pipe, or a file that
            # may not be read, is no reason to fail.
            with suppress(UnsuitableFile, PermissionError):
                descriptors.append(open_regular(path, follow=False))
        for descriptor in descriptors:
            start_writeback(descriptor, 0, 0)
        for descriptor in descriptors:
            sync_file(descriptor)
    finally:
        _close_all(descriptors)
