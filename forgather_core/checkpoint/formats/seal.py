"""Prove at no cost that the files of a checkpoint are those that were saved, so that its record of NaN still holds.

After a save, the index, or the directory of a checkpoint that is one file, gets an extended attribute: a digest of the
text of the index and of each weight file's inode, size, mtime and ctime. Programs can set an mtime, but neither a ctime
nor an inode: whatever writes to a file, replaces it or copies it breaks the seal, and so does an edit of the index.
Without a seal (another file system, another machine) a load looks at the numbers instead.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Mapping
from pathlib import Path

_ATTRIBUTE = "user.forgather.seal"
_COARSE_CLOCK = 5  # CLOCK_REALTIME_COARSE of Linux, which file systems take their times from
_PATIENCE = 0.02  # seconds; a tick of that clock is at most 10 ms
MINIMUM = 64 * 2**20  # bytes of weights: smaller ones are looked at in no time


def seal(index: Path, text: bytes, files: Mapping[str, Path]) -> None:
    """Seal a checkpoint that has just been saved, if the system can; else nothing happens.

    Args:
        index: The index; the directory where there is none, since an attribute of a weight file would change its ctime.
        text: What was written to it; nothing where there is none.
        files: The weight files by name, in their place.
    """
    if not hasattr(os, "setxattr"):
        return
    try:
        end = time.monotonic() + _PATIENCE
        while True:
            now = time.clock_gettime_ns(_COARSE_CLOCK)
            found = {name: path.stat() for name, path in files.items()}
            if all(status.st_ctime_ns < now for status in found.values()):
                break
            # A file that changes within the tick of its ctime would keep that ctime.
            if time.monotonic() > end:
                return
            time.sleep(0.001)
        os.setxattr(index, _ATTRIBUTE, _digest(hashlib.sha256(text).hexdigest(), found).encode())
    except OSError:
        return


def is_sealed(index: Path, text_digest: str, files: Mapping[str, os.stat_result]) -> bool:
    """Return whether nothing has changed since a checkpoint was sealed.

    Args:
        index: The index; the directory where there is none.
        text_digest: SHA-256 of its text as it was read; that of nothing where there is none.
        files: What the system says of the weight files, by name.
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
