"""A checkpoint saved by a command over one mesh is loaded by that over another and saved again: equal to the bit."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from forgather import load_checkpoint
from forgather_core.model.build import build
from forgather_core.options.shared import BuildOptions
from tests.support.fork_server import ForkServer

from .conftest import run_in

pytestmark = pytest.mark.slow
MODEL = (
    *("-m", "forgather", "-t", "qwen3/4M", "model", "--device", "cpu", "--tokenizer", "bytes"),  # tied weights
    *("--num-hidden-layers", "2", "--hidden-size", "36", "--intermediate-size", "40", "--head-dim", "8"),
    *("--num-attention-heads", "4", "--num-key-value-heads", "2"),
)
MESHES = {
    4: ("--parallel", "fsdp=2,tp=2", "--nproc-per-node", "4"),
    3: ("--parallel", "fsdp", "--nproc-per-node", "3"),
    2: ("--parallel", "tp", "--nproc-per-node", "2"),
    1: (),
}


def weights(directory: Path) -> dict[str, torch.Tensor]:
    model = build(directory, BuildOptions(device="cpu", dtype="float32"))
    load_checkpoint(directory, model, strict=True, verify_checksums=True)
    return dict(model.state_dict())


@pytest.mark.few(0, slow=1)
@pytest.mark.parametrize("form", [("--safetensors",), ()])
def test_saved_on_four_loaded_on_any_other_and_back(tmp_path: Path, server: ForkServer, form: tuple[str, ...]) -> None:
    def save(count: int, target: str, *more: str) -> dict[str, torch.Tensor]:
        place = None if count > 1 else server  # the launcher must be a process of its own
        run = run_in(tmp_path, place, OMP_NUM_THREADS="1")
        run(*MODEL, *MESHES[count], "--output-dir", target, *more, "construct", "--save-checkpoint", *form)
        return weights(tmp_path / target)

    expected = save(4, "four")
    for count in (1, 2, 3):
        there = save(count, f"on-{count}", "--load-from-checkpoint", "four")
        back = save(4, f"back-{count}", "--load-from-checkpoint", f"on-{count}")
        for found in (there, back):
            assert found.keys() == expected.keys()
            assert [name for name, one in found.items() if not torch.equal(one, expected[name])] == []
