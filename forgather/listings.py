"""Results about models in general, plugins, checkpoints, datasets and tokenizers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from forgather_core.filesystem.printable import plain_copy
from forgather_core.pages.units import bytes_of, with_noun

from .results import Result

__all__ = [
    "CheckList",
    "CheckpointInfo",
    "DatasetInfo",
    "DatasetList",
    "ModelList",
    "NewPlugin",
    "PluginList",
    "TrainedTokenizer",
]


class _Listing(Result):
    """A list of named items: it iterates over `names`, and has their number as its length."""

    @property
    def names(self) -> tuple[str, ...]:
        """The names, in the order of the list."""
        raise NotImplementedError

    def __iter__(self) -> Iterator[str]:
        return iter(self.names)

    def __len__(self) -> int:
        return len(self.names)

    def __bool__(self) -> bool:
        return True  # as every result: also without names


class ModelList(_Listing):
    """The installed definitions with their presets, and the configurations of a project."""

    kind = "ls"

    @property
    def names(self) -> tuple[str, ...]:
        """The names that other functions accept: presets, definitions without presets, and YAML files."""
        rows = [
            row["name"] for one in self._report["definitions"] for row in one["presets"] or ({"name": one["name"]},)
        ]
        return (*rows, *(row["name"] for row in self._report["configurations"]))

    def _summary(self) -> str:
        return f"of {', '.join(one['name'] for one in self._report['definitions'])}"


class PluginList(_Listing):
    """The plugins that provide definitions."""

    kind = "plugins"

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the plugins, including disabled and broken ones."""
        return tuple(row["name"] for row in self._report["plugins"])

    @property
    def broken(self) -> tuple[str, ...]:
        """Names of the plugins that cannot be loaded."""
        return tuple(row["name"] for row in self._report["plugins"] if row["state"] == "broken")

    def _summary(self) -> str:
        return f"of {', '.join(self.names)}"


class NewPlugin(Result):
    """A new plugin package."""

    kind = "plugin"

    @property
    def directory(self) -> Path:
        """The directory of the package."""
        return Path(self._report["directory"])

    def _summary(self) -> str:
        return f"{self._report['name']} in {self.directory}"


class CheckList(_Listing):
    """The checks of `verify`."""

    kind = "checks"

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the checks, in the order in which they run."""
        return tuple(row["name"] for row in self._report["checks"])

    def _summary(self) -> str:
        return f"of {len(self.names)} checks"


class CheckpointInfo(Result):
    """The contents of a checkpoint, from its headers."""

    kind = "checkpoint"

    @property
    def tensors(self) -> Mapping[str, Mapping[str, Any]]:
        """Dtype, shape, bytes and file of each tensor, by name."""
        return {tensor["name"]: plain_copy(tensor) for tensor in self._report["tensors"]}

    def _summary(self) -> str:
        files, size = len(self._report["files"]), bytes_of(self._report["bytes"])
        return f"{self._report['path']}: {len(self._report['tensors'])} tensors, {size} in {files} files"


class DatasetList(_Listing):
    """The configurations of dataset projects."""

    kind = "datasets"

    @property
    def names(self) -> tuple[str, ...]:
        """The configurations, each as `project/config`."""
        return tuple(f"{row['project']}/{row['config']}" for row in self._report["configurations"])

    def _summary(self) -> str:
        return f"of {', '.join(self.names)}"


class DatasetInfo(Result):
    """The columns, counts and first documents of a dataset."""

    kind = "dataset"

    @property
    def documents(self) -> int:
        """Number of documents that were read and counted."""
        return int(self._report["counted"]["documents"])

    @property
    def tokens(self) -> int:
        """Number of tokens in these documents."""
        return int(self._report["counted"]["tokens"])

    def _summary(self) -> str:
        return f"{self._report['dataset']}: {with_noun(self.documents, 'document')}, {self.tokens:,} tokens"


class TrainedTokenizer(Result):
    """A trained tokenizer in its directory."""

    kind = "tokenizer"

    @property
    def directory(self) -> Path:
        """The directory of the tokenizer, for the option `tokenizer`."""
        return Path(self._report["directory"])

    def _summary(self) -> str:
        return f"{self.directory}: vocab size {self._report['vocab_size']:,}"
