"""A process of the mesh that `parallel-agreement` compares with a single process; run by torchrun.

    torchrun --nproc-per-node N -m forgather_core.checks.shared.mesh_rank DIRECTORY

It judges nothing. DIRECTORY has the task (`task.pt`), a model directory with weights (`model/NAME`), and gets what each
process has computed (`rank-N.pt`) or its error (`error-N.txt`, or `lost-N.txt` if another process has died).
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
from ...parallel.processes import is_lost_connection
from ...runtime.quiet import quiet_transformers
from ...training.loop import total_norm
from ...training.optimizers import PlainStepper
from ...training.row_share import RowShare
from .layers import layers_of
from .meta_initialization import new_memory_is_nan

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
        plain: Also initialize the model as a script does that uses torch's FSDP2 without Forgather.
    """

    parallel: str
    model: str
    seed: int
    batch: dict[str, Tensor]
    packed: dict[str, Tensor] | None = None
    plain: bool = False


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
        kind = "lost" if is_lost_connection(error) else "error"
        (directory / f"{kind}-{rank}.txt").write_text("".join(traceback.format_exception(error)), encoding="utf-8")
        raise
    torch.save(results, directory / f"rank-{rank}.pt")


def _results(task: MeshTask, mesh: Mesh, directory: Path) -> dict[str, Any]:
    share = RowShare.of(mesh)
    assert share is not None
    path = Path(task.model)
    with new_memory_is_nan():
        model: Any = build(path, BuildOptions(device="cpu", dtype="float32", seed=task.seed), mesh=mesh)
    found: dict[str, Any] = {
        "initial": whole(dict(model.named_parameters())),
        "buffers": whole(dict(model.named_buffers())),
        "held": sum(_local(one).numel() for one in model.parameters()),
        "split": sum(one.numel() for one in model.parameters()),
        "tied": len({id(one) for one in model.parameters()}),
    }
    if task.plain:
        plain = _plainly_sharded(path, mesh.sizes.processes, task.seed)
        found |= {"plain": whole(dict(plain.named_parameters())), "plain_buffers": whole(dict(plain.named_buffers()))}
    load_checkpoint(path, model)
    found["loaded"] = whole(dict(model.named_parameters()))
    # Before the first forward pass, after which FSDP2 leaves the outermost parameters whole until backward.
    stepper = PlainStepper(model, adamw)
    inputs = share.inputs(task.batch)
    model.eval()
    with torch.no_grad():
        found["logits"] = model(inputs["input_ids"], use_cache=False).logits
        if task.packed is not None:
            rows = {name: tensor.chunk(share.count)[share.index] for name, tensor in task.packed.items()}
            found["packed"] = model(**rows, use_cache=False).logits
    model.train()
    loss = model(**inputs, use_cache=False).loss
    norms = stepper.backward(share.loss_of_part(loss))
    found["norm"] = total_norm(norms, mesh.device)
    found["loss"] = share.total(loss)
    found["gradients"] = whole({name: one.grad for name, one in model.named_parameters() if one.grad is not None})
    stepper.optimizer_step()
    found["stepped"] = whole(dict(model.named_parameters()))
    save_checkpoint(directory / "saved", model, safetensors=True)
    found["part"] = share.index
    return found


def _plainly_sharded(path: Path, processes: int, seed: int) -> Any:
    """Return a model on meta that torch's FSDP2 shards and allocates, and that draws its weights afterwards."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    model: Any = build(path, BuildOptions(device="meta", dtype="float32"))
    axis = init_device_mesh("cpu", (processes,))
    for layer in layers_of(model):
        fully_shard(layer, mesh=axis)
    fully_shard(model, mesh=axis)
    with new_memory_is_nan():
        model.to_empty(device="cpu")
    torch.manual_seed(seed)
    model.init_weights()
    return model


def whole(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the whole tensors of sharded ones. All processes must call this."""
    return {name: getattr(one, "full_tensor", lambda one=one: one)().detach().clone() for name, one in tensors.items()}


def _local(tensor: Any) -> Tensor:
    local: Tensor = tensor.to_local() if hasattr(tensor, "to_local") else tensor
    return local


if __name__ == "__main__":
    main(Path(sys.argv[1]))
