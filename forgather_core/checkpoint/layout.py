"""Names of the files of a checkpoint, which of several sets a loader takes, and the index that ties shards together."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from ..errors import CheckpointError
from ..paths import expanded

_UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}
_UNITS |= {"KIB": 2**10, "MIB": 2**20, "GIB": 2**30, "TIB": 2**40}


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

    def shards(self, count: int, generation: int) -> list[str]:
        """Names of `count` shards. A second generation beside a first has other names, so that none is overwritten."""
        tag = f"-{generation}" if generation > 1 else ""
        return [f"{self.stem}{tag}-{n:05d}-of-{count:05d}{self.suffix}" for n in range(1, count + 1)]

    def owns(self, name: str) -> bool:
        """Whether a file of this name is a shard or the single file of this format."""
        shard = rf"{self.stem}(-\d+)?-\d{{5}}-of-\d{{5}}{re.escape(self.suffix)}"
        return name == self.single or re.fullmatch(shard, name) is not None


SAFETENSORS = Format("model", ".safetensors")
BIN = Format("pytorch_model", ".bin")

# The order in which transformers looks: the first that is there wins.
ENTRIES = (SAFETENSORS.single, SAFETENSORS.index, BIN.single, BIN.index)


def parse_size(text: str) -> int:
    """Bytes of a size such as `500MB`, `5GB` (powers of ten, as Hugging Face has it) or `2GiB` (powers of two).

    Raises:
        CheckpointError: It is no size above zero.
    """
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([a-zA-Z]*)\s*", text)
    size = int(float(found[1]) * _UNITS.get(found[2].upper(), 0)) if found else 0
    if size < 1:
        raise CheckpointError(f"--max-shard-size: '{text}' is no size; write for example 500MB, 5GB or 2GiB")
    return size


def shards_of(entry: Path) -> list[Path]:
    """The weight files that a checkpoint's entry (an index, or a single file) stands for.

    Raises:
        CheckpointError: The index is damaged, names a file outside its directory, or one that is not there.
    """
    if not entry.name.endswith(".json"):
        return [_regular(entry)]
    try:
        weight_map = json.loads(entry.read_text(encoding="utf-8"))["weight_map"]
        names = sorted(set(weight_map.values()))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{entry} is no index of a checkpoint ({type(error).__name__}: {error})") from None
    for name in names:
        # The name itself is checked, not where it leads: a hub's cache is made of links.
        if not isinstance(name, str) or not name or name in {".", ".."} or "/" in name or "\\" in name or "\0" in name:
            raise CheckpointError(f"{entry} names {name!r}, which is not a file name: it may not leave its directory")
    if not names:
        raise CheckpointError(f"{entry} names no weights")
    return [_regular(entry.parent / name) for name in names]


def _regular(file: Path) -> Path:
    if not file.exists():
        raise CheckpointError(f"{file} is missing: the checkpoint is incomplete")
    if not file.is_file():
        raise CheckpointError(f"{file} is no regular file")
    return file


def find_entry(path: Path) -> Path:
    """The entry of the checkpoint that a loader would take at `path`, a directory or a file.

    Raises:
        CheckpointError: There is none.
    """
    path = expanded(path)
    if path.is_file():
        return path
    if not path.exists():
        raise CheckpointError(f"there is no checkpoint '{path}': name a model directory, a weight file or an index")
    if not path.is_dir():
        raise CheckpointError(f"{path} is neither a directory nor a regular file")
    for name in ENTRIES:
        if (path / name).exists():
            return path / name
    raise CheckpointError(f"{path} holds no weights (none of {', '.join(ENTRIES)}): save them with --save-checkpoint")


def index_json(weight_map: Mapping[str, str], total_size: int) -> bytes:
    """The text of an index."""
    content = {"metadata": {"total_size": total_size}, "weight_map": dict(sorted(weight_map.items()))}
    return (json.dumps(content, indent=2) + "\n").encode()


def free_generation(directory: Path, format: Format, count: int) -> int:
    """The first generation none of whose shard names is taken."""
    generation = 1
    while any((directory / name).exists() for name in format.shards(count, generation)):
        generation += 1
    return generation


def superseded(directory: Path, keep: Iterable[str]) -> list[Path]:
    """The files of older checkpoints of either format in a directory, without those named in `keep`."""
    kept = set(keep)
    names = [entry.name for entry in directory.iterdir()]
    weights = [name for name in names if name not in kept and (SAFETENSORS.owns(name) or BIN.owns(name))]
    return sorted(directory / name for name in weights)
