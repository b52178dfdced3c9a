"""Checksums of weight files. They detect damage, not tampering: an attacker who changes a file can change its checksum.

A checksum is written as `ALGORITHM:HEX`. New checksums are XXH3-128, which is computed faster than disks write.
Earlier releases recorded SHA-256, which is still verified.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any, Protocol

ALGORITHM = "xxh3_128"
KEYS = ("checksums", "sha256")  # in an index's metadata; earlier releases wrote the second, with plain digests


class Hasher(Protocol):
    """The interface that hashlib and xxhash share."""

    def update(self, data: Any, /) -> None:
        """Append bytes."""

    def hexdigest(self) -> str:
        """Return the digest of all bytes so far."""


class Checksum:
    """An incremental checksum.

    Args:
        algorithm: Name of the algorithm.
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
    """Return the checksum of each file from an index's metadata, in the current or the older format."""
    new, old = (found if isinstance(found := metadata.get(key), dict) else {} for key in KEYS)
    texts = {name: f"sha256:{digest}" for name, digest in old.items() if isinstance(digest, str)}
    return texts | {name: text for name, text in new.items() if isinstance(text, str)}


def record(metadata: Mapping[str, Any], checksums: Mapping[str, str]) -> dict[str, Any]:
    """Return an index's metadata with its checksums replaced by `checksums`, by file name."""
    return {key: value for key, value in metadata.items() if key not in KEYS} | {KEYS[0]: dict(checksums)}


def _hasher(algorithm: str) -> Hasher:
    if algorithm == ALGORITHM:
        import xxhash  # imported only to hash files: loads and inspections do not need it

        return xxhash.xxh3_128()
    return hashlib.new(algorithm)
