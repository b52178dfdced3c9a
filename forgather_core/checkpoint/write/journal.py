"""The journal of a save in place: which files are new, which are superseded, and the identity of each.

The directory is not trusted, so a journal is verified. It may list only names that a save gives to its files or that
loaders look for, and a file is removed only if its inode, mtime and size are those in the journal.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from ...filesystem.disk import read_regular
from ...model.manifest import REWRITTEN_BY_TRANSFORMERS
from ..formats.layout import BIN, ENTRIES, SAFETENSORS
from ..formats.strict_json import LIMIT, parse_object

JOURNAL = "journal.json"

Identity = list[int]  # inode, mtime in nanoseconds, size in bytes

_LIMIT = 32 * 2**20  # bytes
_FILES = 100_000  # maximum number of files in a journal
_INDEXES = (SAFETENSORS.index, BIN.index)
_SINGLE = (SAFETENSORS.single, BIN.single)
_DIGEST = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class Journal:
    """The changes that a save makes to a directory.

    Args:
        index: Name of the new index, or of the single weight file without an index.
        digest: SHA-256 of the new index; "" if there is none.
        new: Identity by name of the files that are moved into the directory.
        old: Identity by name of the files that they supersede.
    """

    index: str
    digest: str
    new: dict[str, Identity]
    old: dict[str, Identity]

    def to_json(self) -> bytes:
        """Return the content of the journal file."""
        return json.dumps(vars(self)).encode()

    @classmethod
    def read(cls, staging: Path) -> Self | None:
        """Read the journal of a staging directory; return None if there is none or it is truncated.

        Raises:
            ValueError: Forgather cannot have written it. The message gives the reason.
        """
        file = staging / JOURNAL
        try:
            data = read_regular(file, _LIMIT, follow=False)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise ValueError(str(error.strerror)) from None
        if _is_truncated(data):
            return None  # files are moved only after the journal is durable
        return cls(**_checked(parse_object(data, 2 * _FILES)))

    @property
    def has_index(self) -> bool:
        """Return whether the new checkpoint has an index."""
        return self.index in _INDEXES

    @property
    def shards(self) -> dict[str, Identity]:
        """The new files that contain weights."""
        return {name: identity for name, identity in self.new.items() if _is_shard(name) or name == self.index}


def identity_of(file: Path) -> Identity:
    """Return the identity of a file, without following a link."""
    found = file.lstat()
    return [found.st_ino, found.st_mtime_ns, found.st_size]


def index_of(file: Path) -> tuple[str | None, set[str]]:
    """Return the SHA-256 of an index and the names of its files; (None, empty) if it cannot be read."""
    try:
        data = read_regular(file, LIMIT, follow=False)
        names = parse_object(data, 10_000).get("weight_map")
    except (OSError, ValueError):
        return None, set()
    found = {name for name in names.values() if isinstance(name, str)} if isinstance(names, dict) else set()
    return hashlib.sha256(data).hexdigest(), found


def _is_truncated(data: bytes) -> bool:
    """Return whether a journal is truncated because a crash or a power cut interrupted its write."""
    return b'{"index": "'.startswith(data[:11]) and not data.rstrip().endswith(b"}}")


def _checked(content: dict[str, Any]) -> dict[str, Any]:
    if content.keys() != {"index", "digest", "new", "old"}:
        raise ValueError("it does not have the keys of a journal")
    entry = content["index"]
    if entry not in ENTRIES:
        raise ValueError("it names neither an index nor a single weight file")
    if entry in _INDEXES and (not isinstance(content["digest"], str) or not _DIGEST.fullmatch(content["digest"])):
        raise ValueError("its digest is not a SHA-256")
    if entry in _SINGLE and content["digest"] != "":
        raise ValueError("it has a digest but no index")
    weights = {entry} if entry in _SINGLE else set()
    for key, allowed in (("new", lambda name: _is_new(name) or name in weights), ("old", _is_old)):
        files = content[key]
        if not isinstance(files, dict) or not all(map(_is_identity, files.values())):
            raise ValueError(f"'{key}' does not list files with inode, mtime and size")
        if not all(map(allowed, files)):
            raise ValueError(f"'{key}' names files that a save does not write")
    if not (weights & content["new"].keys() if weights else any(map(_is_shard, content["new"]))):
        raise ValueError("it names no new weights")
    return content


def _is_identity(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 3 and all(type(number) is int for number in value)


def _is_shard(name: str) -> bool:
    return any(format.generation(name) is not None for format in (SAFETENSORS, BIN))


def _is_new(name: str) -> bool:
    return _is_shard(name) or is_companion(name)


def is_companion(name: str) -> bool:
    """Return whether a save may write a file of this name beside the weights: configuration, or source of the model."""
    return name in REWRITTEN_BY_TRANSFORMERS or re.fullmatch(r"[A-Za-z_]\w*\.py", name, re.ASCII) is not None


def _is_old(name: str) -> bool:
    """Return whether a superseded file may have this name. Other programs name their shards differently."""
    return name in ENTRIES or (
        re.fullmatch(r"[\w.-]+", name, re.ASCII) is not None
        and not name.startswith(".")
        and name.endswith((SAFETENSORS.suffix, BIN.suffix))
    )
