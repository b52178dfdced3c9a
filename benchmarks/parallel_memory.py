"""Compare the estimated memory of a distributed training step with measurements in gloo processes.

python benchmarks/parallel_memory.py [--only TEXT] [--markdown]

Each setting starts its processes on this machine, as torchrun does. Three figures are measured:

- `model`: the peak of the bytes that torch's allocator hands out in a step, from torch's profiler, added to the
  weights, buffers and optimizer state before it. The first process runs on real tensors without the others: its
  collective operations send nothing. This is what the estimate claims to be.
- `gloo`: the same of each process of a real mesh. It includes the copies that gloo makes of the tensors that it
  reduces; NCCL makes none.
- `resident`: the growth of each process's resident memory from before the model is built to the peak of a step (VmHWM),
  with the buffers of gloo's connections. The process first trains a model of one layer over the same mesh, so that
  connections and threads are not measured, and glibc's allocator is set to return freed memory at once.

Exit code 1 if the estimate is off from `model` by more than the bound. Linux only.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import json
import os
import sys
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from _common import in_process, machine, memory_status, reset_peak_memory, settings

BOUND = 0.05
ALONE = "ddp=1"
MESHES = (ALONE, "ddp=2", "fsdp=2", "tp=2", "fsdp=4", "tp=4", "fsdp=2,tp=2")
SIZE = {"hidden_size": 512, "intermediate_size": 1408, "num_hidden_layers": 7, "num_attention_heads": 8}  # 98 MB


@dataclass(frozen=True)
class Setting:
    """One row of the table."""

    mesh: str
    optimizer: str
    precision: str = "fp32"
    rows: int = 2
    length: int = 256

    @property
    def mixed(self) -> bool:
        """Matrix products are computed in bfloat16."""
        return self.precision == "mixed"

    def __str__(self) -> str:
        return f"{self.mesh}, {self.optimizer}, {self.precision}, {self.rows} x {self.length}"


def estimated(setting: Setting) -> int:
    """Return the estimated peak memory of a step in bytes."""
    from forgather_core.estimate.distributed import requested_mesh
    from forgather_core.estimate.memory import Memory

    resolved = settings(Path(), **SIZE, parallel=setting.mesh)
    with requested_mesh(resolved) as mesh:
        how: dict[str, Any] = {"optimizer": setting.optimizer, "precision": setting.precision}
        memory = Memory(resolved, device_type="cpu", mesh=mesh, **how)
        return memory.training(setting.rows, setting.length).peak.bytes


def alone(setting: Setting) -> int:
    """Return the peak of allocated bytes of the first process, without the others."""
    from forgather_core.estimate.distributed import requested_mesh
    from forgather_core.model.meta_model import meta_model
    from forgather_core.model.tensor_slots import materialize

    resolved = settings(Path(), **SIZE, parallel=setting.mesh)
    with requested_mesh(resolved) as mesh:
        model = meta_model(resolved, dtype=torch.float32)
        if mesh is not None:
            model = replace(mesh, bf16=setting.mixed).distribute(model)
        materialize(model, torch.device("cpu"))
        return _allocated(model, *_stepping(model, setting))


def measured(setting: Setting) -> list[dict[str, int]]:
    """Return the peak of allocated bytes and the growth of resident memory of each rank."""
    from forgather_core.options.parallel import parallel_sizes

    count = parallel_sizes(setting.mesh).processes
    with tempfile.TemporaryDirectory() as folder:
        ranks = [_start(setting, rank, count, folder) for rank in range(count)]
        failed = [rank for rank in ranks if os.waitpid(rank, 0)[1]]
        if failed:
            raise SystemExit(f"{setting}: {len(failed)} processes failed")
        return [json.loads((Path(folder) / f"{rank}.json").read_text()) for rank in range(count)]


def _start(setting: Setting, rank: int, count: int, folder: str) -> int:
    """Start a process of a mesh and return its id."""
    places = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": count, "LOCAL_WORLD_SIZE": count}
    places |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": 20000 + os.getpid() % 20000}
    environment = os.environ | {name: str(value) for name, value in places.items()}
    task = json.dumps([asdict(setting), folder])
    return os.spawnve(os.P_NOWAIT, sys.executable, [sys.executable, __file__, "--rank", task], environment)


def run_rank(setting: Setting, folder: Path) -> None:
    """Measure this process of a mesh, and write the result."""
    _steps(setting, folder / "small", SIZE | {"num_hidden_layers": 1})
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    before = memory_status("VmRSS")
    peak, allocated = _steps(setting, folder / "model", SIZE)
    result = {"gloo": allocated, "resident": peak - before}
    (folder / f"{os.environ['RANK']}.json").write_text(json.dumps(result))


def _steps(setting: Setting, directory: Path, size: dict[str, int]) -> tuple[int, int]:
    """Train; return the peak of resident memory in the third step, and of allocated bytes in later ones."""
    from forgather_core.commands.construct import construct
    from forgather_core.parallel.mesh import Mesh

    parallel = setting.mesh if setting.mesh != ALONE else None
    resolved = settings(directory, **size, parallel=parallel, device="cpu")
    mesh = Mesh.connect(parallel, "cpu") if parallel is not None else None
    model = construct(resolved, mesh=replace(mesh, bf16=setting.mixed) if mesh is not None else None).model
    step, optimizers = _stepping(model, setting)
    for _ in range(3):
        reset_peak_memory()
        step()
    return memory_status("VmHWM"), _allocated(model, step, optimizers)


def _stepping(model: Any, setting: Setting) -> tuple[Callable[[], None], list[torch.optim.Optimizer]]:
    """Return a function that runs a training step, and its optimizers."""
    from forgather_core.training.loss import loss_of
    from forgather_core.training.optimizers import PlainStepper, optimizer_of

    model.train()
    stepper = PlainStepper(model, optimizer_of(setting.optimizer, "cpu", sharded=setting.mesh != ALONE))

    def step() -> None:
        batch = torch.randint(6, 1000, (setting.rows, setting.length))
        with torch.autocast("cpu", torch.bfloat16, enabled=setting.mixed):
            loss = loss_of(model, {"input_ids": batch, "labels": batch}, full_logits=False)
        stepper.backward(loss)
        stepper.optimizer_step()

    return step, stepper.optimizers


def _allocated(model: Any, step: Callable[[], None], optimizers: list[torch.optim.Optimizer]) -> int:
    """Return the peak of allocated bytes in a step: the least of several, since gloo's threads free unseen."""
    step()
    peaks = []
    for _ in range(4):
        for module in model.modules():
            if hasattr(module, "reshard"):
                module.reshard()
        held = _held([*model.parameters(), *model.buffers(), *_state(optimizers)])
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
            step()
        peaks.append(held + _peak(profile))
    return min(peaks)


def _state(optimizers: list[torch.optim.Optimizer]) -> list[Any]:
    states = [state for optimizer in optimizers for state in optimizer.state.values()]
    return [value for state in states for value in state.values() if isinstance(value, torch.Tensor)]


def _held(tensors: list[Any]) -> int:
    """Return the bytes of the storages of tensors, or of their local parts."""
    storages = [getattr(tensor, "_local_tensor", tensor).untyped_storage() for tensor in tensors]
    return sum({storage.data_ptr(): storage.nbytes() for storage in storages}.values())


def _peak(profile: Any) -> int:
    """Return the largest sum of the bytes that torch's allocator has handed out and not got back."""
    events = [event for event in profile.profiler.kineto_results.events() if event.name() == "[memory]"]
    total = most = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        total += event.nbytes()
        most = max(most, total)
    return most


def main() -> int:
    """Print the table and return the exit code: 1 if the bound is exceeded."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="only settings that contain TEXT", metavar="TEXT")
    parser.add_argument("--markdown", action="store_true", help="print a Markdown table")
    parser.add_argument("--run", help=argparse.SUPPRESS)
    parser.add_argument("--rank", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.rank:
        setting, folder = json.loads(options.rank)
        run_rank(Setting(**setting), Path(folder))
        return 0
    if options.run:
        setting = Setting(**json.loads(options.run))
        found = {"estimate": estimated(setting), "model": alone(setting)}
        print(json.dumps([found | measurements for measurements in measured(setting)]))
        return 0
    print(machine(), flush=True)
    row = "{:35}{:>5}{:>10}" + 3 * "{:>10}{:>7}"
    if options.markdown:
        row = "| {:35} | {:>4} | {:>8} |" + 3 * " {:>8} | {:>5} |"
    print(row.format("setting", "rank", "estimate", "model", "ratio", "gloo", "ratio", "resident", "ratio"))
    if options.markdown:
        print("|---|" + 8 * "--:|")
    worst = 0.0
    fp32 = [Setting(mesh, optimizer) for mesh in MESHES for optimizer in ("adamw", "sgd")]
    for setting in [*fp32, *(Setting(mesh, "adamw", "mixed") for mesh in MESHES)]:
        if options.only in str(setting):
            for rank, found in enumerate(in_process(__file__, asdict(setting))):
                estimate = found.pop("estimate")
                worst = max(worst, abs(estimate / found["model"] - 1))
                cells = [text for size in found.values() for text in (f"{size / 1e6:.1f}", f"{estimate / size:.3f}")]
                print(row.format(str(setting), rank, f"{estimate / 1e6:.1f}", *cells), flush=True)
    print(f"MB; largest difference of estimate and model: {worst:.1%} (bound {BOUND:.0%})")
    return int(worst > BOUND)


if __name__ == "__main__":
    sys.exit(main())
