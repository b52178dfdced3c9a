"""Training a model of Forgather's against transformers' own Llama of the same shape and weights.

python benchmarks/train.py [--runs 3] [--threads 2]

A step is forward, backward and SGD, as `forgather model test` takes it: the loss in parts, without logits; a second row
has ours with all logits, as under a trainer that looks at them. With one thread CPU time counts, else the time that
passes. Then, each in a process of its own, the highest memory of a step: with a vocabulary of 128
thousand against the loss over all logits, and with the switches that save memory against none: these do nothing about
the weights, which are told apart. Where there is a GPU the
same in bfloat16 on it, for every attention implementation, plain and compiled, with the part of the device's peak that
is reached. Exit code 1 where a bound is broken.
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
from _common import be_quiet, forget_highest_mark, in_process, in_turns, machine, pair, parser, settings, status

from forgather_core.commands.construct import construct
from forgather_core.estimate import Memory, known_device
from forgather_core.training.loss import loss_of
from forgather_core.training.optimizers import FusedStepper, PlainStepper

SPEED = 1.0  # tokens a second against transformers: the bound of all cases together
SPEED_OF_ONE = 0.97  # and of each, by which runs differ
VOCABULARY, LARGE_MEMORY, LARGE_TIME = 131072, 0.27, 1.1
SAVED = 0.4


@dataclass(frozen=True)
class Case:
    """A model and the way it is trained."""

    who: str
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
        """Of the model."""
        return {"vocab_size": self.vocab_size} if self.vocab_size is not None else {}


class Trainee:
    """Takes steps on one batch of random tokens.

    Args:
        model: It is trained.
        case: How.
        compiled: Whether torch compiles it.
    """

    def __init__(self, model: Any, case: Case, *, compiled: bool = False) -> None:
        self.model, self._case = model.train(), case
        if case.checkpointing:
            model.gradient_checkpointing_enable()
        take = FusedStepper if case.fused else PlainStepper
        self._stepper = take(model, partial(torch.optim.SGD, lr=0.01))
        if compiled:
            model.compile()
        shape = (case.rows, case.length)
        ids = torch.randint(5, 1000, shape, generator=torch.Generator().manual_seed(1)).to(model.device)
        self._inputs = {"input_ids": ids, "labels": ids}

    def step(self) -> None:
        """One."""
        loss = loss_of(self.model, self._inputs, full_logits=self._case.full_logits)
        self._stepper.backward(loss)
        self._stepper.optimizer_step()
        if self.model.device.type == "cuda":
            torch.cuda.synchronize()


def trainees(place: Path, cases: dict[str, Case], dtype: torch.dtype, device: str, **how: Any) -> dict[str, Trainee]:
    """All of the same weights; a model is shared by those of the same kind."""
    case = next(iter(cases.values()))
    directory = place / case.preset.replace("/", "_")
    flags = {"device": "cpu", "save_checkpoint": True, "safetensors": True}
    construct(settings(directory, case.preset, **flags, **case.options), keep=True)
    models = pair(directory, dtype, attn_implementation=case.attention)
    return {name: Trainee(models[c.who].to(device), c, **how) for name, c in cases.items()}


def beside(preset: str, rows: int, length: int, **more: Any) -> dict[str, Case]:
    """Transformers' model, ours, and ours with all logits."""
    ours = Case("ours", preset, rows, length, **more)
    with_logits = Case("ours", preset, rows, length, full_logits=True, **more)
    return {"transformers": Case("theirs", preset, rows, length, **more), "forgather": ours, "all logits": with_logits}


def speeds(cases: dict[str, Case], runs: int, clock: Any, *, device: str = "cpu", **how: Any) -> dict[str, float]:
    """The best seconds of a step of each."""
    dtype = torch.float32 if device == "cpu" else torch.bfloat16
    with tempfile.TemporaryDirectory() as place:
        made = trainees(Path(place), cases, dtype, device, **how)
        return in_turns({name: trainee.step for name, trainee in made.items()}, runs, clock)


def peak(case: Case) -> tuple[int, int]:
    """Bytes of the weights, and of the highest point of a third step above what the process holds between steps."""
    with tempfile.TemporaryDirectory() as place:
        small = Case(**asdict(case) | {"preset": "llama/4M", "rows": 1, "length": 64, "vocab_size": None})
        trainees(Path(place) / "small", {"": small}, torch.float32, "cpu")[""].step()
        trainee = trainees(Path(place) / "model", {"": case}, torch.float32, "cpu")[""]
        for _ in range(2):  # the first step touches weights that were mapped so far
            trainee.step()
        ctypes.CDLL(None).malloc_trim(0)
        before = status("VmRSS")
        forget_highest_mark()
        trainee.step()
        weights = sum(p.numel() * p.element_size() for p in trainee.model.parameters())
        return weights, status("VmHWM") - before


def on_cpu(runs: int, clock: Any) -> Iterator[float]:
    """Tokens a second; yields the ratios."""
    print(
        f"{'tokens per second, best':34}{'transformers':>14}{'forgather':>12}{'ratio':>8}{'all logits':>14}{'ratio':>8}"
    )
    for preset, rows, length in (("llama/4M", 2, 512), ("llama/117M", 2, 512)):
        for attention in ("eager", "sdpa"):
            best = speeds(
                beside(preset, rows, length, attention=attention), runs * (4 if preset == "llama/4M" else 1), clock
            )
            theirs, ours, logits = (rows * length / best[who] for who in best)
            print(
                f"{preset + ', ' + attention + f', {rows} x {length}':34}{theirs:14.1f}{ours:12.1f}{ours / theirs:8.3f}"
                f"{logits:14.1f}{logits / theirs:8.3f}",
                flush=True,
            )
            yield ours / theirs


def large_vocabulary(runs: int, clock: Any) -> tuple[float, float]:
    """Memory and time of the loss in parts over that of all logits."""
    cases = beside("llama/4M", 8, 512, vocab_size=VOCABULARY)
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
    """Memory above the weights with both switches over that with none."""
    print(f"\n{'llama/117M, 2 x 512':42}{'above weights':>14}{'ratio':>8}{'with them':>14}{'ratio':>8}")
    found: dict[str, tuple[int, int]] = {}
    for name, how in {
        "neither": {},
        "gradient checkpointing": {"checkpointing": True},
        "fused with backward": {"fused": True},
        "both": {"checkpointing": True, "fused": True},
    }.items():
        found[name] = in_process(__file__, asdict(Case("ours", "llama/117M", 2, 512, **how)))
        above, whole = (n / 1e6 for n in (found[name][1], sum(found[name])))
        ratios = found[name][1] / found["neither"][1], sum(found[name]) / sum(found["neither"])
        print(f"{name:42}{above:11.0f} MB{ratios[0]:8.3f}{whole:11.0f} MB{ratios[1]:8.3f}", flush=True)
    return found["both"][1] / found["neither"][1]


def on_gpu(runs: int) -> Iterator[float]:
    """Tokens a second in bfloat16, memory, and the part of the peak that is reached; yields the ratios of speed."""
    known = known_device(torch.device("cuda"))
    print(f"\n{torch.cuda.get_device_name()}, bfloat16; MFU of {known.name if known else 'a peak nobody knows'}")
    print(f"{'tokens per second, best':50}{'transformers':>14}{'forgather':>12}{'ratio':>8}{'MFU':>8}{'memory':>10}")
    for preset, rows, length in (("llama/117M", 16, 1024), ("llama/llama3.2-1B", 4, 2048)):
        flops = Memory(settings(Path(), preset)).forward(rows, length).total_flops("forward") * 3
        for attention in ("eager", "sdpa", "flex_attention"):
            for compiled in (False, True):
                cases = beside(preset, rows, length, attention=attention)
                del cases["all logits"]
                memory = {}
                best = {}
                for name, case in cases.items():  # one after another: both need not fit at once
                    torch.cuda.empty_cache()
                    torch.cuda.reset_peak_memory_stats()
                    best |= speeds({name: case}, runs, time.perf_counter, device="cuda", compiled=compiled)
                    memory[name] = torch.cuda.max_memory_allocated()
                    torch._dynamo.reset()
                theirs, ours = (rows * length / best[who] for who in best)
                speed = known.flops_in("bf16") if known else None
                used = f"{flops / best['forgather'] / speed:8.1%}" if speed else f"{'':8}"
                ratio = memory["forgather"] / memory["transformers"]
                title = f"{preset}, {attention}{', compiled' if compiled else ''}, {rows} x {length}"
                print(f"{title:50}{theirs:14.0f}{ours:12.0f}{ours / theirs:8.3f}{used}{ratio:10.3f}", flush=True)
                yield ours / theirs


def main() -> int:
    """Print the tables; exit code 1 where a bound is broken."""
    options = parser(__doc__, runs=3)
    options.add_argument("--threads", type=int, default=2, help="of torch (default: %(default)s)")
    options.add_argument("--only", choices=("cpu", "gpu"), help="one section")
    options.add_argument("--run", type=json.loads, help=argparse.SUPPRESS)
    asked = options.parse_args()
    be_quiet()
    if asked.run:
        print(json.dumps(peak(Case(**asked.run))))
        return 0
    torch.set_num_threads(asked.threads)
    clock = time.process_time if asked.threads == 1 else time.perf_counter
    print(f"{asked.runs} runs, {machine()}\n")
    broken = False
    if asked.only != "gpu":
        ratios = list(on_cpu(asked.runs, clock))
        memory, seconds = large_vocabulary(asked.runs, clock)
        saved = switches()
        print(
            f"\nspeed: least {min(ratios):.3f} (bound {SPEED_OF_ONE}), mean {sum(ratios) / len(ratios):.3f} ({SPEED})"
        )
        print(f"large vocabulary: memory {memory:.3f} ({LARGE_MEMORY}), time {seconds:.3f} ({LARGE_TIME})")
        print(f"both switches: memory above the weights {saved:.3f} ({SAVED})")
        broken = min(ratios) < SPEED_OF_ONE or sum(ratios) / len(ratios) < SPEED or memory > LARGE_MEMORY
        broken |= seconds > LARGE_TIME or saved > SAVED
    if not torch.cuda.is_available():
        print("\nno GPU here: its section is skipped")
    elif asked.only != "cpu":
        broken |= min(on_gpu(asked.runs)) < SPEED_OF_ONE
    return int(broken)


if __name__ == "__main__":
    sys.exit(main())
