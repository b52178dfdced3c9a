"""A process of the mesh that `parallel-agreement` compares with a single process; run by torchrun.

    torchrun --nproc-per-node N -m forgather_core.checks.shared.mesh_rank DIRECTORY

It judges nothing. DIRECTORY has the task (`task.pt`), a model directory with weights (`model/NAME`), and gets what each
process has computed (`rank-N.pt`) or its error (`error-N.txt`).
"""

from __future__ import annotations

import sys
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...checkpoint import load_checkpoint, save_checkpoint
from ...model.build import build
from ...options.shared import BuildOptions
from ...parallel.mesh import Mesh
from ...runtime.quiet import quiet_transformers
from ...training.row_share import RowShare

LR = 0.1
# Large, so that the update is a smooth function of the gradient: with a tiny one it amplifies rounding errors.
EPS = 1.0


@dataclass(frozen=True)
class MeshTask:
    """The task of the processes.

    Args:
        parallel: The sizes of the mesh.
        model: The path of the model directory.
        seed: The seed of the initial weights.
        batch: `input_ids` and `labels` [B, T]; B is a multiple of the parts of a batch.
        packed: `input_ids` and `position_ids` [B, T] of packed documents; None if the model does not pack.
    """

    parallel: str
    model: str
    seed: int
    batch: dict[str, Tensor]
    packed: dict[str, Tensor] | None = None


def adamw(parameters: Any) -> torch.optim.Optimizer:
    """Return the optimizer of the step that is compared."""
    return torch.optim.AdamW(parameters, lr=LR, eps=EPS, foreach=False)


def main(directory: Path) -> None:
    """Run the task, and save the results of this process."""
    task = MeshTask(**torch.load(directory / "task.pt", weights_only=True))
    mesh = Mesh.connect(task.parallel, "cpu")
    assert mesh is not None
    rank = mesh.processes.rank
    try:
        with quiet_transformers():
            results = _results(task, mesh, directory)
    except Exception as error:
        (directory / f"error-{rank}.txt").write_text("".join(traceback.format_exception(error)), encoding="utf-8")
        raise
    torch.save(results, directory / f"rank-{rank}.pt")


def _results(task: MeshTask, mesh: Mesh, directory: Path) -> dict[str, Any]:
    share = RowShare.of(mesh)
    assert share is not None
    path = Path(task.model)
    model: Any = build(path, BuildOptions(device="cpu", dtype="float32", seed=task.seed), mesh=mesh)
    found: dict[str, Any] = {
        "initial": whole(dict(model.named_parameters())),
        "buffers": whole(dict(model.named_buffers())),
        "held": sum(_local(one).numel() for one in model.parameters()),
        "split": sum(one.numel() for one in model.parameters()),
        "tied": len({id(one) for one in model.parameters()}),
    }
    load_checkpoint(path, model)
    found["loaded"] = whole(dict(model.named_parameters()))
    inputs = share.inputs(task.batch)
    model.eval()
    with torch.no_grad():
        found["logits"] = model(inputs["input_ids"], use_cache=False).logits
        if task.packed is not None:
            rows = {name: tensor.chunk(share.count)[share.index] for name, tensor in task.packed.items()}
            found["packed"] = model(**rows, use_cache=False).logits
    model.train()
    loss = model(**inputs, use_cache=False).loss
    share.loss_of_part(loss).backward()  # type: ignore[no-untyped-call]
    found["loss"] = share.total(loss)
    found["gradients"] = whole({name: one.grad for name, one in model.named_parameters() if one.grad is not None})
    adamw(model.parameters()).step()
    found["stepped"] = whole(dict(model.named_parameters()))
    save_checkpoint(directory / "saved", model, safetensors=True)
    found["part"] = share.index
    return found


def whole(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the whole tensors of sharded ones. All processes must call this."""
    return {name: getattr(one, "full_tensor", lambda one=one: one)().detach().clone() for name, one in tensors.items()}


def _local(tensor: Any) -> Tensor:
    local: Tensor = tensor.to_local() if hasattr(tensor, "to_local") else tensor
    return local


if __name__ == "__main__":
    main(Path(sys.argv[1]))
