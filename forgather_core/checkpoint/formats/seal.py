"""Prove that a checkpoint is unchanged since it was saved, without reading its weights.

A load then relies on the recorded names of tensors with NaN or Inf. Without a seal (another file system, another
machine), it checks every element.

After a save, the index (or the directory of a single-file checkpoint) gets an extended attribute: a digest of the text
of the index and of each weight file's inode, size, mtime and ctime. Programs can set an mtime, but neither a ctime nor
an inode: writing to a file, replacing it or copying it breaks the seal, and so does an edit of the index.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Mapping
from pathlib import Path

_ATTRIBUTE = "user.forgather.seal"
_COARSE_CLOCK = 5  # Linux's CLOCK_REALTIME_COARSE, from which file systems take their times
_TIMEOUT = 0.02  # seconds; a tick of that clock is at most 10 ms
MINIMUM = 64 * 2**20  # bytes of weights; checking a smaller checkpoint takes milliseconds


def seal(index: Path, text: bytes, files: Mapping[str, Path]) -> None:
    """Seal a checkpoint that has just been saved. Does nothing if the system does not support it.

    Args:
        index: The index, or the directory if there is none: an attribute of a weight file would change its ctime.
        text: The content of the index; empty if there is none.
        files: The weight files by name, at their final paths.
    """
    if not hasattr(os, "setxattr"):
        return
    try:
        end = time.monotonic() + _TIMEOUT
        while True:
            now = time.clock_gettime_ns(_COARSE_CLOCK)
            found = {name: path.stat() for name, path in files.items()}
            if all(status.st_ctime_ns < now for status in found.values()):
                break
            # A change within the same clock tick would leave the ctime as it is.
            if time.monotonic() > end:
                return
            time.sleep(0.001)
        os.setxattr(index, _ATTRIBUTE, _digest(hashlib.sha256(text).hexdigest(), found).encode())
    except OSError:
        return


def is_sealed(index: Path, text_digest: str, files: Mapping[str, os.stat_result]) -> bool:
    """Return whether a checkpoint is unchanged since it was sealed.

    Args:
        index: The index, or the directory if there is none.
        text_digest: SHA-256 of the index text as read; that of an empty text if there is none.
        files: Stat results of the weight files, by name.
    """
    if not hasattr(os, "getxattr"):
        return False
    try:
        return os.getxattr(index, _ATTRIBUTE) == _digest(text_digest, files).encode()
    except OSError:
        return False


def _digest(text_digest: str, files: Mapping[str, os.stat_result]) -> str:
    facts = [(name, s.st_ino, s.st_size, s.st_mtime_ns, s.st_ctime_ns) for name, s in sorted(files.items())]
    return hashlib.sha256(repr((text_digest, facts)).encode()).hexdigest()
