"""Checksums of weight files. They detect damage, not tampering: whoever changes a file can change its checksum too.

A checksum is written as `ALGORITHM:HEX`. New ones are XXH3-128, which is faster than disks on any processor. Earlier
releases recorded SHA-256, which is still checked.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any, Protocol

ALGORITHM = "xxh3_128"
KEYS = ("checksums", "sha256")  # of an index's metadata; earlier releases wrote the second, with bare digests


class Hasher(Protocol):
    """What hashlib and xxhash have in common."""

    def update(self, data: Any, /) -> None:
        """Append bytes."""

    def hexdigest(self) -> str:
        """Return the digest of all bytes so far."""


class Checksum:
    """The checksum of bytes that are handed over one part after the other.

    Args:
        algorithm: Its name.
    """

    def __init__(self, algorithm: str = ALGORITHM) -> None:
        self._algorithm = algorithm
        self._hasher = _hasher(algorithm)
        self.update = self._hasher.update

    def text(self) -> str:
        """Return the checksum of all bytes so far, as `ALGORITHM:HEX`."""
        return f"{self._algorithm}:{self._hasher.hexdigest()}"


def algorithm_of(checksum: str) -> str | None:
    """Return the algorithm of a recorded checksum, or None if this release does not know it."""
    name = checksum.partition(":")[0]
    return name if name in {ALGORITHM, "sha256"} else None


def recorded(metadata: Mapping[str, Any]) -> dict[str, str]:
    """Return the checksums by file that an index's metadata record, of this release's form or of an older one."""
    new, old = (found if isinstance(found := metadata.get(key), dict) else {} for key in KEYS)
    texts = {name: f"sha256:{digest}" for name, digest in old.items() if isinstance(digest, str)}
    return texts | {name: text for name, text in new.items() if isinstance(text, str)}


def record(metadata: Mapping[str, Any], checksums: Mapping[str, str]) -> dict[str, Any]:
    """Return an index's metadata with these checksums by file in place of others."""
    return {key: value for key, value in metadata.items() if key not in KEYS} | {KEYS[0]: dict(checksums)}


def _hasher(algorithm: str) -> Hasher:
    if algorithm == ALGORITHM:
        import xxhash  # only where files are hashed: loads and inspections need none

        return xxhash.xxh3_128()
    return hashlib.new(algorithm)
