"""Compare training of an exported model with transformers' Llama of the same shape and weights.

python benchmarks/train.py [--runs 3] [--threads 2]

A step is forward, backward and SGD, as in `forgather model test`: with chunked cross-entropy, and for comparison with
full logits. One thread is measured in CPU time, several threads in wall time. The peak memory of a step is measured in
a new process for each case: chunked cross-entropy and full logits with a vocabulary of 128 thousand; each switch that
saves memory, both, and neither. The switches do not reduce the weights, so the memory above the weights is reported
separately. On a machine with a GPU, speed, memory and MFU are measured there too, in bfloat16, for every attention
implementation, eager and compiled. Exit code 1 if a bound is missed.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from _common import (
    best_times,
    in_process,
    machine,
    memory_status,
    pair,
    parser,
    reset_peak_memory,
    settings,
    silence_transformers,
)

from forgather_core.commands.construct import construct
from forgather_core.estimate import Memory, known_device
from forgather_core.training.loss import loss_of
from forgather_core.training.optimizers import FusedStepper, PlainStepper

SPEED = 1.0  # tokens/s relative to transformers, mean of all cases
MIN_CASE_SPEED = 0.97  # the same for each case, below 1 by the variation between runs
VOCABULARY, LARGE_MEMORY, LARGE_TIME = 131072, 0.27, 1.1
SAVED = 0.4


@dataclass(frozen=True)
class Case:
    """A model and its training step. `side` is `native` for transformers' model, or `exported`."""

    side: str
    preset: str
    rows: int
    length: int
    attention: str = "sdpa"
    full_logits: bool = False
    checkpointing: bool = False
    fused: bool = False
    vocab_size: int | None = None

    @property
    def options(self) -> dict[str, Any]:
        """Options of the model."""
        return {"vocab_size": self.vocab_size} if self.vocab_size is not None else {}


class TrainableModel:
    """A model with a stepper and one batch of random tokens.

    Args:
        model: The model to train.
        case: The training step.
        compiled: Compile the model with torch.
    """

    def __init__(self, model: Any, case: Case, *, compiled: bool = False) -> None:
        self.model, self._case = model.train(), case
        if case.checkpointing:
            model.gradient_checkpointing_enable()
        stepper_class = FusedStepper if case.fused else PlainStepper
        self._stepper = stepper_class(model, partial(torch.optim.SGD, lr=0.01))
        if compiled:
            model.compile()
        shape = (case.rows, case.length)
        ids = torch.randint(5, 1000, shape, generator=torch.Generator().manual_seed(1)).to(model.device)
        self._inputs = {"input_ids": ids, "labels": ids}

    def step(self) -> None:
        """Take one step."""
        loss = loss_of(self.model, self._inputs, full_logits=self._case.full_logits)
        self._stepper.backward(loss)
        self._stepper.optimizer_step()
        if self.model.device.type == "cuda":
            torch.cuda.synchronize()


def trainable_models(
    workdir: Path, cases: dict[str, Case], dtype: torch.dtype, device: str, **kwargs: Any
) -> dict[str, TrainableModel]:
    """Return the models of all cases, with equal weights; cases of the same side share a model."""
    case = next(iter(cases.values()))
    directory = workdir / case.preset.replace("/", "_")
    flags = {"device": "cpu", "save_checkpoint": True, "safetensors": True}
    construct(settings(directory, case.preset, **flags, **case.options), keep=True)
    models = pair(directory, dtype, attn_implementation=case.attention)
    return {name: TrainableModel(models[c.side].to(device), c, **kwargs) for name, c in cases.items()}


def cases_to_compare(preset: str, rows: int, length: int, **kwargs: Any) -> dict[str, Case]:
    """Return the cases: transformers' model, the exported model, and the exported model with full logits."""
    exported = Case("exported", preset, rows, length, **kwargs)
    with_logits = Case("exported", preset, rows, length, full_logits=True, **kwargs)
    return {
        "transformers": Case("native", preset, rows, length, **kwargs),
        "forgather": exported,
        "full logits": with_logits,
    }


def speeds(cases: dict[str, Case], runs: int, clock: Any, *, device: str = "cpu", **kwargs: Any) -> dict[str, float]:
    """Return the best time of a step of each case, in seconds."""
    dtype = torch.float32 if device == "cpu" else torch.bfloat16
    with tempfile.TemporaryDirectory() as workdir:
        models = trainable_models(Path(workdir), cases, dtype, device, **kwargs)
        return best_times({name: model.step for name, model in models.items()}, runs, clock)


def peak(case: Case) -> tuple[int, int]:
    """Return the bytes of the weights, and the peak of a third step above the memory between steps."""
    with tempfile.TemporaryDirectory() as workdir:
        small = Case(**asdict(case) | {"preset": "llama/4M", "rows": 1, "length": 64, "vocab_size": None})
        trainable_models(Path(workdir) / "small", {"": small}, torch.float32, "cpu")[""].step()
        trainable = trainable_models(Path(workdir) / "model", {"": case}, torch.float32, "cpu")[""]
        for _ in range(2):  # the first step reads weights that were only mapped
            trainable.step()
        ctypes.CDLL(None).malloc_trim(0)
        before = memory_status("VmRSS")
        reset_peak_memory()
        trainable.step()
        weights = sum(p.numel() * p.element_size() for p in trainable.model.parameters())
        return weights, memory_status("VmHWM") - before


def on_cpu(runs: int, clock: Any) -> Iterator[float]:
    """Print tokens/s and yield the ratios."""
    print(f"{'tokens/s, best':34}{'transformers':>14}{'forgather':>12}{'ratio':>8}{'full logits':>14}{'ratio':>8}")
    for preset, rows, length in (("llama/4M", 2, 512), ("llama/117M", 2, 512)):
        for attention in ("eager", "sdpa"):
            best = speeds(
                cases_to_compare(preset, rows, length, attention=attention),
                runs * (4 if preset == "llama/4M" else 1),
                clock,
            )
            native, exported, logits = (rows * length / seconds for seconds in best.values())
            print(
                f"{preset + ', ' + attention + f', {rows} x {length}':34}{native:14.1f}{exported:12.1f}"
                f"{exported / native:8.3f}{logits:14.1f}{logits / native:8.3f}",
                flush=True,
            )
            yield exported / native


def large_vocabulary(runs: int, clock: Any) -> tuple[float, float]:
    """Print memory and time with a large vocabulary, and return those of Forgather relative to transformers."""
    cases = cases_to_compare("llama/4M", 8, 512, vocab_size=VOCABULARY)
    best = speeds(cases, runs, clock)
    peaks = {name: sum(in_process(__file__, asdict(case))) for name, case in cases.items()}
    print(
        f"\n{f'vocabulary of {VOCABULARY}, llama/4M, 8 x 512':42}{'memory':>12}{'ratio':>8}{'seconds':>10}{'ratio':>8}"
    )
    for name, seconds in best.items():
        memory, peer = peaks[name], peaks["transformers"]
        print(
            f"{name:42}{memory / 1e6:9.0f} MB{memory / peer:8.3f}{seconds:10.2f}{seconds / best['transformers']:8.3f}",
            flush=True,
        )
    return peaks["forgather"] / peaks["transformers"], best["forgather"] / best["transformers"]


def switches() -> float:
    """Print the memory with each switch, and return the memory above the weights with both relative to neither."""
    print(f"\n{'llama/117M, 2 x 512':42}{'above weights':>14}{'ratio':>8}{'with weights':>14}{'ratio':>8}")
    peaks: dict[str, tuple[int, int]] = {}  # bytes of the weights, bytes above them
    for name, switch in {
        "neither": {},
        "gradient checkpointing": {"checkpointing": True},
        "fused with backward": {"fused": True},
        "both": {"checkpointing": True, "fused": True},
    }.items():
        peaks[name] = in_process(__file__, asdict(Case("exported", "llama/117M", 2, 512, **switch)))
        above, total = (n / 1e6 for n in (peaks[name][1], sum(peaks[name])))
        ratios = peaks[name][1] / peaks["neither"][1], sum(peaks[name]) / sum(peaks["neither"])
        print(f"{name:42}{above:11.0f} MB{ratios[0]:8.3f}{total:11.0f} MB{ratios[1]:8.3f}", flush=True)
    return peaks["both"][1] / peaks["neither"][1]


def on_gpu(runs: int) -> Iterator[float]:
    """Print tokens/s in bfloat16, memory and MFU, and yield the ratios of speed."""
    known = known_device(torch.device("cuda"))
    print(f"\n{torch.cuda.get_device_name()}, bfloat16; MFU of {known.name if known else 'an unknown peak'}")
    print(f"{'tokens per second, best':50}{'transformers':>14}{'forgather':>12}{'ratio':>8}{'MFU':>8}{'memory':>10}")
    for preset, rows, length in (("llama/117M", 16, 1024), ("llama/llama3.2-1B", 4, 2048)):
        flops = Memory(settings(Path(), preset)).forward(rows, length).total_flops("forward") * 3
        for attention in ("eager", "sdpa", "flex_attention"):
            for compiled in (False, True):
                cases = cases_to_compare(preset, rows, length, attention=attention)
                del cases["full logits"]
                memory = {}
                best = {}
                for name, case in cases.items():  # one after the other: both may not fit at once
                    torch.cuda.empty_cache()
                    torch.cuda.reset_peak_memory_stats()
                    best |= speeds({name: case}, runs, time.perf_counter, device="cuda", compiled=compiled)
                    memory[name] = torch.cuda.max_memory_allocated()
                    torch._dynamo.reset()
                native, exported = (rows * length / seconds for seconds in best.values())
                speed = known.flops_in("bf16") if known else None
                used = f"{flops / best['forgather'] / speed:8.1%}" if speed else f"{'':8}"
                ratio = memory["forgather"] / memory["transformers"]
                title = f"{preset}, {attention}{', compiled' if compiled else ''}, {rows} x {length}"
                print(
                    f"{title:50}{native:14.0f}{exported:12.0f}{exported / native:8.3f}{used}{ratio:10.3f}", flush=True
                )
                yield exported / native


def main() -> int:
    """Print the tables and return the exit code: 1 if a bound is missed."""
    options = parser(__doc__, runs=3)
    options.add_argument("--threads", type=int, default=2, help="number of torch threads (default: %(default)s)")
    options.add_argument("--only", choices=("cpu", "gpu"), help="run one section")
    options.add_argument("--run", type=json.loads, help=argparse.SUPPRESS)
    arguments = options.parse_args()
    silence_transformers()
    if arguments.run:
        print(json.dumps(peak(Case(**arguments.run))))
        return 0
    torch.set_num_threads(arguments.threads)
    clock = time.process_time if arguments.threads == 1 else time.perf_counter
    print(f"{arguments.runs} runs, {machine()}\n")
    broken = False
    if arguments.only != "gpu":
        ratios = list(on_cpu(arguments.runs, clock))
        memory, seconds = large_vocabulary(arguments.runs, clock)
        saved = switches()
        mean = sum(ratios) / len(ratios)
        print(f"\nspeed: minimum {min(ratios):.3f} (bound {MIN_CASE_SPEED}), mean {mean:.3f} ({SPEED})")
        print(f"large vocabulary: memory {memory:.3f} ({LARGE_MEMORY}), time {seconds:.3f} ({LARGE_TIME})")
        print(f"both switches: memory above the weights {saved:.3f} ({SAVED})")
        broken = min(ratios) < MIN_CASE_SPEED or mean < SPEED or memory > LARGE_MEMORY
        broken |= seconds > LARGE_TIME or saved > SAVED
    if not torch.cuda.is_available():
        print("\nno GPU: its section is skipped")
    elif arguments.only != "cpu":
        broken |= min(on_gpu(arguments.runs)) < MIN_CASE_SPEED
    return int(broken)


if __name__ == "__main__":
    sys.exit(main())
