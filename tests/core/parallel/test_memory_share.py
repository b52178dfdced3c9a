"""A step is refused by the memory that a device of the mesh needs, not by that of the whole model."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from forgather_core.errors import TrainingError
from forgather_core.estimate import Peak, least_memory
from forgather_core.options.parallel import ParallelSizes
from forgather_core.parallel.memory_share import MemoryShare
from forgather_core.training_run import cost

MEGABYTE = 10**6
PARTS = {"weights": 800, "gradients": 800, "optimizer": 1600, "activations": 400, "inputs": 40}
PEAK = Peak(MEGABYTE * sum(PARTS.values()), {kind: MEGABYTE * size for kind, size in PARTS.items()}, "update")
HELD, REST = 3200, 440


@pytest.mark.parametrize(
    ("sizes", "device", "local", "megabytes"),
    [
        (ParallelSizes(), "cuda", 1, HELD + REST),
        (ParallelSizes(ddp=8), "cuda", 8, HELD + REST),
        (ParallelSizes(ddp=8), "cpu", 8, 8 * (HELD + REST)),  # they share the memory of the machine
        (ParallelSizes(fsdp=8), "cuda", 8, HELD / 8 + REST),
        (ParallelSizes(fsdp=8), "cpu", 8, HELD + 8 * REST),
        (ParallelSizes(fsdp=8), "cpu", 4, HELD / 2 + 4 * REST),
        (ParallelSizes(fsdp=4, tp=2), "cuda", 8, HELD / 8 + REST / 2),
        (ParallelSizes(ddp=2, tp=4), "cuda", 8, HELD / 4 + REST / 4),
    ],
)
def test_each_memory_has_its_parts(sizes: ParallelSizes, device: str, local: int, megabytes: float) -> None:
    share = MemoryShare.of(sizes, device, local)
    assert least_memory(PEAK, share) == int(megabytes * MEGABYTE)
    assert least_memory(PEAK, share, held=False) == int((megabytes - 800 * share.weights) * MEGABYTE)


def test_a_run_is_refused_by_its_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Mesh:
        memory_share = MemoryShare.of(ParallelSizes(fsdp=8), "cuda", 8)

    needed = least_memory(PEAK, Mesh.memory_share, held=False)
    assert needed < 1000 * MEGABYTE < least_memory(PEAK, MemoryShare(), held=False)
    monkeypatch.setattr(cost, "free_memory", lambda _: needed)
    cost.refuse_if_too_large(PEAK, 0, torch.device("cpu"), tmp_path, Mesh())  # type: ignore[arg-type]
    monkeypatch.setattr(cost, "free_memory", lambda _: needed - 1)
    with pytest.raises(TrainingError, match=r"a step needs .* of memory"):
        cost.refuse_if_too_large(PEAK, 0, torch.device("cpu"), tmp_path, Mesh())  # type: ignore[arg-type]


def test_copies_on_one_machine_share_its_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"RANK": "0", "WORLD_SIZE": "4", "LOCAL_WORLD_SIZE": "2"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(cost, "free_memory", lambda _: 3 * PEAK.bytes // 2)
    cost.refuse_if_too_large(PEAK, 0, torch.device("meta"), tmp_path)
    with pytest.raises(TrainingError, match=r"a step needs .* of memory"):
        cost.refuse_if_too_large(PEAK, 0, torch.device("cpu"), tmp_path)
