"""The file names of a checkpoint, the order of preference among several checkpoints, and the index of shards."""

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

from ...errors import CheckpointError, DirectoryError, access_hint
from ...filesystem.atomic import replaced_by
from ...filesystem.disk import open_regular
from ...filesystem.paths import expanded
from ...filesystem.printable import printable_name
from .checksum import recorded
from .foreign import FETCH_AGAIN, describe_directory
from .strict_json import DEPTH, LIMIT, parse_object

_UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}
_UNITS |= {"KIB": 2**10, "MIB": 2**20, "GIB": 2**30, "TIB": 2**40}

_BRACKETS = 10_000  # an index needs few objects; its metadata may have more
_LONGEST_NAME = 255


@dataclass(frozen=True)
class Format:
    """One of Hugging Face's two weight formats.

    Args:
        stem: Prefix of its file names.
        suffix: Suffix of its file names.
    """

    stem: str
    suffix: str

    @property
    def single(self) -> str:
        """Name of a single-file checkpoint."""
        return self.stem + self.suffix

    @property
    def index(self) -> str:
        """Name of the index of a sharded checkpoint."""
        return f"{self.single}.index.json"

    def names(self, count: int, generation: int) -> list[str]:
        """Return the names of `count` files: the single-file name for one, else the shards of a generation."""
        return [self.single] if count == 1 else self.shards(count, generation)

    def shards(self, count: int, generation: int) -> list[str]:
        """Return the names of `count` shards. Each generation has its own names, so that no shard is overwritten."""
        tag = f"-{generation}" if generation > 1 else ""
        return [f"{self.stem}{tag}-{n:05d}-of-{count:05d}{self.suffix}" for n in range(1, count + 1)]

    def generation(self, name: str) -> int | None:
        """Return the generation of a shard name, or None for any other name."""
        found = re.fullmatch(rf"{self.stem}(?:-(\d+))?-\d{{5,}}-of-\d{{5,}}{re.escape(self.suffix)}", name)
        return int(found[1] or 1) if found else None


SAFETENSORS = Format("model", ".safetensors")
BIN = Format("pytorch_model", ".bin")
DISTCP = Format("", ".distcp")  # of torch.distributed.checkpoint, which is only read

# In the order in which transformers looks for them: the first that exists is loaded.
ENTRIES = (SAFETENSORS.single, SAFETENSORS.index, BIN.single, BIN.index)

METADATA = ".metadata"  # the entry of a torch distributed checkpoint
_MODEL = re.compile(r"pytorch_model_fsdp_\d+")  # the directory in which accelerate saves one

_LARGEST = 2.0**63  # bytes of a file

DAMAGED = f"the checkpoint is damaged; {FETCH_AGAIN}"  # a hint
_NAME_ONE = "name a model directory, a weight file or an index"
_SAVE_FIRST = "name another directory, or construct the model with --save-checkpoint"


def parse_size(text: int | str) -> int:
    """Return the bytes of a size such as `500MB`, `5GB` (powers of ten, like Hugging Face) or `2GiB` (powers of two).

    Raises:
        CheckpointError: The text is not a size above zero.
    """
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([a-zA-Z]*)\s*", str(text))
    size = float(found[1]) * _UNITS.get(found[2].upper(), 0) if found else 0.0
    if not 1 <= size < _LARGEST:
        hint = "use for example 500MB, 5GB or 2GiB"
        raise CheckpointError(f"must be a positive size; got '{text}'", option="--max-shard-size", hint=hint)
    return int(size)


@dataclass(frozen=True)
class Index:
    """The file of each tensor, and metadata. For a checkpoint written by Forgather, it is the manifest.

    Args:
        weight_map: File name by tensor name.
        metadata: `total_size` and, if Forgather wrote it, `dtype`, versions, `checksums` of the files, and
            `non_finite`, the tensors that contained NaN or Inf when they were written.
        digest: SHA-256 of the text that was read; "" if none was read.
    """

    weight_map: Mapping[str, str]
    metadata: Mapping[str, Any] = field(default_factory=dict)
    digest: str = ""

    @classmethod
    def read(cls, file: Path) -> Self:
        """Read and validate an index.

        Raises:
            CheckpointError: The index is damaged, or names a file outside its directory.
        """
        descriptor = open_checked(file)
        with os.fdopen(descriptor, "rb") as stream:
            data = stream.read(LIMIT + 1)
        try:
            content = parse_object(data.removeprefix(BOM_UTF8), _BRACKETS, depth=DEPTH)
        except ValueError as error:
            problem = f"is not a checkpoint index: {error}"
            raise CheckpointError(problem, file=file, hint=FETCH_AGAIN) from None
        parts = {"weight_map": content.get("weight_map"), "metadata": content.get("metadata") or {}}
        if wrong := [name for name, value in parts.items() if not isinstance(value, dict)]:
            problem = f"is not a checkpoint index: it has no object '{wrong[0]}'"
            raise CheckpointError(problem, file=file, hint=FETCH_AGAIN)
        weight_map: dict[str, Any] = content["weight_map"]
        metadata: dict[str, Any] = content.get("metadata") or {}
        # Only the name is checked, not the target of a link: the Hub cache consists of links.
        texts = {name for name in weight_map.values() if isinstance(name, str)}
        for name in (*texts, *(name for name in weight_map.values() if not isinstance(name, str))):
            if not is_file_name(name):
                problem = f"names {printable_name(repr(name))}, which is not a file name in its directory"
                raise CheckpointError(problem, file=file, hint=FETCH_AGAIN)
        if not weight_map:
            raise CheckpointError("lists no weights", file=file, hint=DAMAGED)
        return cls(weight_map, metadata, hashlib.sha256(data).hexdigest())

    @property
    def files(self) -> list[str]:
        """Names of the weight files, sorted."""
        return sorted(set(self.weight_map.values()))

    @property
    def checksums(self) -> dict[str, str]:
        """Recorded checksum of each file, as `ALGORITHM:HEX`."""
        return recorded(self.metadata)

    def to_json(self) -> bytes:
        """Return the content of the index file."""
        content = {"metadata": dict(self.metadata), "weight_map": dict(sorted(self.weight_map.items()))}
        return (json.dumps(content, indent=2, ensure_ascii=False) + "\n").encode()


def is_file_name(name: object) -> bool:
    """Return whether a name is one plain component of a path."""
    return (
        isinstance(name, str)
        and name not in {"", ".", ".."}
        and len(name) <= _LONGEST_NAME
        and name.isprintable()
        and not re.search(r"[/\\]", name)
    )


def open_checked(file: Path) -> int:
    """Return a descriptor of a regular file. Does not block on a pipe.

    Raises:
        CheckpointError: The file is missing, is not a regular file, or cannot be read.
    """
    try:
        return open_regular(file)
    except FileNotFoundError:
        hint = f"the checkpoint is incomplete; {FETCH_AGAIN}"
        raise CheckpointError("is missing", file=file, hint=hint) from None
    except OSError as error:
        raise CheckpointError(f"cannot be read: {error.strerror}", file=file, hint=access_hint(error)) from None


def find_entry(path: Path) -> Path:
    """Return the entry file of the checkpoint that a loader would use at `path`, a directory or a file.

    Raises:
        CheckpointError: There is no checkpoint at `path`.
    """
    try:
        path = replaced_by(expanded(path))
        if path.is_file():
            if path.suffix == DISTCP.suffix:
                problem = "is one file of a torch distributed checkpoint"
                raise CheckpointError(problem, file=path, hint=f"name its directory, {path.parent}")
            return path
        if not path.exists():
            problem = "is a broken link" if os.path.lexists(path) else "does not exist"
            raise CheckpointError(problem, file=path, hint=_NAME_ONE)
        if not path.is_dir():
            raise CheckpointError("is neither a directory nor a regular file", file=path, hint=_NAME_ONE)
        entry = entry_of(path)
        if entry is not None:
            return path / entry
        if (path / METADATA).is_file():
            return path / METADATA
        models = [part for part in path.iterdir() if is_model_part(part)]
        if len(models) == 1 and not is_model_part(path):
            return find_entry(models[0])
        found = describe_directory(path)
    except DirectoryError as error:  # a loop of links
        raise error.at(CheckpointError) from None
    except (OSError, RuntimeError, ValueError) as error:  # no permission, too long
        problem = f"cannot be read: {printable_name(getattr(error, 'strerror', None) or error)}"
        raise CheckpointError(problem, file=path, hint=access_hint(error)) from None
    problem = f"contains no weights (none of {', '.join(ENTRIES)})" + (f": it {found.problem}" if found else "")
    raise CheckpointError(problem, file=path, hint=found.hint if found else _SAVE_FIRST)


def is_model_part(directory: Path) -> bool:
    """Return whether a directory is the one in which accelerate saves the weights of a model with FSDP."""
    return _MODEL.fullmatch(directory.name) is not None and directory.is_dir()


def entry_of(directory: Path) -> str | None:
    """Return the name of the entry that loaders use in a directory, or None if there is none."""
    return next((name for name in ENTRIES if (directory / name).exists()), None)


def weight_files(directory: Path) -> dict[str, list[str]]:
    """Return the files of each entry in a directory, entry included; the entry that loaders use comes first.

    An index that cannot be read is returned without other files, because its files are unknown.
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
    """Return the first generation with unused shard names."""
    generation = 1
    while any(os.path.lexists(directory / name) for name in format.shards(count, generation)):
        generation += 1
    return generation
