"""Names of the files of a checkpoint, which of several sets a loader takes, and the index that ties shards together."""

from __future__ import annotations

import hashlib
import json
import os
import re
from codecs import BOM_UTF8
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from ...errors import CheckpointError, DirectoryError
from ...filesystem.atomic import replaced_by
from ...filesystem.disk import open_regular
from ...filesystem.paths import expanded
from ...filesystem.wording import printable_name
from .checksum import recorded
from .foreign import describe_directory
from .strict_json import DEPTH, LIMIT, parse_object

_UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}
_UNITS |= {"KIB": 2**10, "MIB": 2**20, "GIB": 2**30, "TIB": 2**40}


_BRACKETS = 10_000  # an index has a few objects; its metadata may have more
_LONGEST_NAME = 255


@dataclass(frozen=True)
class Format:
    """One of Hugging Face's two weight formats.

    Args:
        stem: What its files' names begin with.
        suffix: What they end in.
    """

    stem: str
    suffix: str

    @property
    def single(self) -> str:
        """Name of a checkpoint of one file."""
        return self.stem + self.suffix

    @property
    def index(self) -> str:
        """Name of the index of a sharded checkpoint."""
        return f"{self.single}.index.json"

    def names(self, count: int, generation: int) -> list[str]:
        """Names of `count` files: one has the name that needs no index; several are the shards of a generation."""
        return [self.single] if count == 1 else self.shards(count, generation)

    def shards(self, count: int, generation: int) -> list[str]:
        """Names of `count` shards. A second generation beside a first has other names, so that none is overwritten."""
        tag = f"-{generation}" if generation > 1 else ""
        return [f"{self.stem}{tag}-{n:05d}-of-{count:05d}{self.suffix}" for n in range(1, count + 1)]

    def generation(self, name: str) -> int | None:
        """The generation of a shard of this name; None for any other name."""
        found = re.fullmatch(rf"{self.stem}(?:-(\d+))?-\d{{5,}}-of-\d{{5,}}{re.escape(self.suffix)}", name)
        return int(found[1] or 1) if found else None


SAFETENSORS = Format("model", ".safetensors")
BIN = Format("pytorch_model", ".bin")

# The order in which transformers looks: the first that is there wins.
ENTRIES = (SAFETENSORS.single, SAFETENSORS.index, BIN.single, BIN.index)


_LARGEST = 2.0**63  # bytes of a file


def parse_size(text: int | str) -> int:
    """Bytes of a size such as `500MB`, `5GB` (powers of ten, as Hugging Face has it) or `2GiB` (powers of two).

    Raises:
        CheckpointError: It is no size above zero.
    """
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([a-zA-Z]*)\s*", str(text))
    size = float(found[1]) * _UNITS.get(found[2].upper(), 0) if found else 0.0
    if not 1 <= size < _LARGEST:
        raise CheckpointError(f"--max-shard-size: '{text}' is no size; write for example 500MB, 5GB or 2GiB")
    return int(size)


@dataclass(frozen=True)
class Index:
    """Which file holds which tensor, and what is known of them: of a checkpoint of ours, its manifest.

    Args:
        weight_map: File by name of tensor.
        metadata: `total_size` and, where Forgather wrote it, `dtype`, versions, `checksums` of the files, and
            `non_finite`, the tensors that held NaN or an infinity when they were written.
        digest: SHA-256 of the text that it was read from; "" if it was not read.
    """

    weight_map: Mapping[str, str]
    metadata: Mapping[str, Any] = field(default_factory=dict)
    digest: str = ""

    @classmethod
    def read(cls, file: Path) -> Self:
        """Read and check an index.

        Raises:
            CheckpointError: It is damaged, or names a file outside its directory.
        """
        descriptor = open_checked(file)
        with os.fdopen(descriptor, "rb") as stream:
            data = stream.read(LIMIT + 1)
        try:
            content = parse_object(data.removeprefix(BOM_UTF8), _BRACKETS, depth=DEPTH)
        except ValueError as error:
            raise CheckpointError(f"{file} is no index of a checkpoint: {error}") from None
        weight_map, metadata = content.get("weight_map"), content.get("metadata") or {}
        if not isinstance(weight_map, dict) or not isinstance(metadata, dict):
            raise CheckpointError(f"{file} is no index of a checkpoint: it has no object 'weight_map'")
        # The name itself is checked, not where it leads: a hub's cache is made of links.
        texts = {name for name in weight_map.values() if isinstance(name, str)}
        for name in (*texts, *(name for name in weight_map.values() if not isinstance(name, str))):
            if not is_file_name(name):
                raise CheckpointError(
                    f"{file} names {printable_name(repr(name))}, which is not a file name: it may not leave "
                    f"its directory"
                )
        if not weight_map:
            raise CheckpointError(f"{file} names no weights")
        return cls(weight_map, metadata, hashlib.sha256(data).hexdigest())

    @property
    def files(self) -> list[str]:
        """The weight files, sorted."""
        return sorted(set(self.weight_map.values()))

    @property
    def checksums(self) -> dict[str, str]:
        """Checksum by file, as `ALGORITHM:HEX`, where it is known."""
        return recorded(self.metadata)

    def to_json(self) -> bytes:
        """The text of the file."""
        content = {"metadata": dict(self.metadata), "weight_map": dict(sorted(self.weight_map.items()))}
        return (json.dumps(content, indent=2, ensure_ascii=False) + "\n").encode()


def is_file_name(name: object) -> bool:
    """Whether it is one plain component of a path."""
    return (
        isinstance(name, str)
        and name not in {"", ".", ".."}
        and len(name) <= _LONGEST_NAME
        and name.isprintable()
        and not re.search(r"[/\\]", name)
    )


def open_checked(file: Path) -> int:
    """A descriptor of a regular file, never waiting for a pipe.

    Raises:
        CheckpointError: It is missing, or is no regular file, or cannot be read.
    """
    try:
        return open_regular(file)
    except FileNotFoundError:
        raise CheckpointError(f"{file} is missing: the checkpoint is incomplete") from None
    except OSError as error:
        raise CheckpointError(f"{file} cannot be read: {error.strerror}") from None


def find_entry(path: Path) -> Path:
    """The entry of the checkpoint that a loader would take at `path`, a directory or a file.

    Raises:
        CheckpointError: There is none.
    """
    try:
        path = replaced_by(expanded(path))
        if path.is_file():
            return path
        if not path.exists():
            raise CheckpointError(f"there is no checkpoint '{path}': name a model directory, a weight file or an index")
        if not path.is_dir():
            raise CheckpointError(f"{path} is neither a directory nor a regular file")
        entry = entry_of(path)
        if entry is not None:
            return path / entry
        found = describe_directory(path)
    except (DirectoryError, OSError, RuntimeError, ValueError) as error:  # no permission, too long, links in a circle
        reason = getattr(error, "strerror", None) or error
        raise CheckpointError(f"there is no checkpoint '{printable_name(path)}': {printable_name(reason)}") from None
    advice = found or "save them with --save-checkpoint"
    raise CheckpointError(f"{path} holds no weights (none of {', '.join(ENTRIES)}): {advice}")


def entry_of(directory: Path) -> str | None:
    """Name of the entry that wins in a directory; None where there is none."""
    return next((name for name in ENTRIES if (directory / name).exists()), None)


def weight_files(directory: Path) -> dict[str, list[str]]:
    """The entries of a directory, the winner first, each with the files that belong to it, itself among them.

    An index that cannot be read stands alone: what it named is not known.
    """
    found = {}
    for name in ENTRIES:
        if os.path.lexists(directory / name):
            found[name] = [name]
            if name.endswith(".json"):
                try:
                    found[name] += Index.read(directory / name).files
                except CheckpointError:
                    continue
    return found


def free_generation(directory: Path, format: Format, count: int) -> int:
    """The first generation none of whose shard names is taken."""
    generation = 1
    while any(os.path.lexists(directory / name) for name in format.shards(count, generation)):
        generation += 1
    return generation
