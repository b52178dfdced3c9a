"""Ways in which one save follows another in the same directory."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from .models import model_of, save

OLD, NEW, LATER, STALE = 1, 2, 3, 7
FOREIGN = ("notes.txt", "runs/events.log")


def _nothing(_: Path) -> None:
    """Create nothing."""


def _ours(directory: Path, **how: Any) -> None:
    save(directory, OLD, **how)


def _theirs(directory: Path) -> None:
    model_of(OLD).save_pretrained(directory)


def _two_sets(directory: Path) -> None:
    """Create a preferred checkpoint and, in a format preferred to the new index, one that must not be loaded again."""
    _theirs(directory)
    torch.save(model_of(STALE).state_dict(), directory / "pytorch_model.bin")


@dataclass(frozen=True)
class Scenario:
    """The content of a directory, and what is saved over it.

    Args:
        before: Makes what stands there.
        how: The arguments of the save.
        old: What the directory loads as before.
    """

    before: Callable[[Path], None]
    how: dict[str, Any] = field(default_factory=dict)
    old: int | None = OLD

    @property
    def marked(self) -> bool:
        """Return whether the configuration records the generation too."""
        return bool(self.how.get("marked"))

    def make(self, directory: Path) -> None:
        """Create the content, with files of other programs."""
        self.before(directory)
        if self.old is not None:
            for name in FOREIGN:
                (directory / name).parent.mkdir(exist_ok=True)
                (directory / name).write_text("mine")


def _one_with_an_index(directory: Path) -> None:
    """Create one file and an index, as Forgather wrote them until 0.1."""
    save(directory, OLD, safetensors=True)
    single, shard = directory / "model.safetensors", "model-00001-of-00001.safetensors"
    single.rename(directory / shard)
    weight_map = dict.fromkeys(model_of(OLD).state_dict(), shard)
    (directory / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))


SHARDED: dict[str, Any] = {"safetensors": True, "max_shard_size": 20_000}
SINGLE: dict[str, Any] = {"safetensors": True}
SCENARIOS = {
    "a new directory": Scenario(_nothing, SHARDED, old=None),
    "safetensors, other shards": Scenario(lambda d: _ours(d, safetensors=True, max_shard_size=9_000), SHARDED),
    "safetensors, as many shards": Scenario(lambda d: _ours(d, **SHARDED), SHARDED),
    "bin over transformers' single file": Scenario(_theirs, {"max_shard_size": 20_000}),
    "safetensors over bin": Scenario(lambda d: _ours(d, max_shard_size=30_000), SHARDED),
    "bin over sharded safetensors": Scenario(lambda d: _ours(d, **SHARDED), {"max_shard_size": 20_000}),
    "one file over one file": Scenario(lambda d: _ours(d, **SINGLE), SINGLE),
    "one file over one with an index": Scenario(_one_with_an_index, SINGLE),
    "shards over one file": Scenario(lambda d: _ours(d, **SINGLE), SHARDED),
    "one bin file over sharded safetensors": Scenario(lambda d: _ours(d, **SHARDED)),
    "one bin file over sharded bin": Scenario(lambda d: _ours(d, max_shard_size=20_000)),
    "bin over two older sets": Scenario(_two_sets, {"max_shard_size": 20_000}),
    "another configuration": Scenario(lambda d: _ours(d, marked=True, **SHARDED), {"marked": True, **SHARDED}),
    "another dtype over transformers'": Scenario(_theirs, {"dtype": "bfloat16", "max_shard_size": 20_000}),
}
