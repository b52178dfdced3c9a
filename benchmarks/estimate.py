"""Compare the estimated memory of a training step with measurements, for every setting in a new process.

python benchmarks/estimate.py [--only TEXT] [--markdown]

The process first trains a tiny model of the same definition, so that one-time allocations are not measured. It then
measures the growth of its resident memory from before the model is built to the peak of the third step (VmHWM). glibc's
allocator is set to return freed memory at once. On a machine with a GPU, the memory of torch's allocator there is
measured too. Exit code 1 if an estimate is off by more than the bound. Linux only.
"""

from __future__ import annotations

import argparse
import ctypes
import itertools
import json
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from _common import in_process, machine, memory_status, reset_peak_memory, settings

BOUND = 0.05


@dataclass(frozen=True)
class Setting:
    """One row of the table."""

    template: str
    rows: int
    length: int
    optimizer: str = "adamw"
    precision: str = "fp32"
    attention: str = "sdpa"
    checkpointing: bool = False
    fused: bool = False
    full_logits: bool = False
    packed: bool = False

    def __str__(self) -> str:
        switches = ["checkpointing" * self.checkpointing, "fused" * self.fused]
        switches += ["full logits" * self.full_logits, "packed" * self.packed]
        shape = f"{self.rows} x {self.length}"
        return ", ".join(
            filter(None, (self.template, shape, self.precision, self.attention, self.optimizer, *switches))
        )


def grid() -> list[Setting]:
    """Return settings that cover every definition and every switch, alone and combined."""
    definitions = ("llama/4M", "single_head/4M", "causal_lm/4M", "deepone/4M", "mistral/4M", "qwen3/4M")
    combinations = [Setting(name, 8, 512, checkpointing=c, fused=f) for name in definitions for c, f in _PAIRS]
    combinations += [Setting(name, 4, 512, precision=p) for name in definitions for p in ("bf16", "mixed")]
    combinations += [Setting(name, 2, 512, attention="eager") for name in definitions]
    combinations += [Setting("llama/4M", rows, length) for rows, length in ((1, 2048), (32, 128), (2, 1024))]
    combinations += [Setting("llama/30M", 4, 256, optimizer=o) for o in ("sgd", "adamw", "adamw_fused", "none")]
    combinations += [Setting(name, 8, 512, full_logits=True) for name in definitions]
    combinations += [Setting(name, 2, 1024, packed=True) for name in definitions]
    combinations += [Setting("llama/117M", 2, 512, checkpointing=c, fused=f, optimizer="sgd") for c, f in _PAIRS]
    return combinations


_PAIRS = tuple(itertools.product((False, True), repeat=2))


def estimated(setting: Setting, device: str = "cpu") -> int:
    """Return the estimated peak memory of a step in bytes."""
    from forgather_core.estimate import Memory

    return (
        Memory(
            settings(Path(), setting.template),
            optimizer=setting.optimizer,
            precision=setting.precision,
            attention=setting.attention,
            checkpointing=setting.checkpointing,
            fused=setting.fused,
            full_logits=setting.full_logits,
            packed=setting.packed,
            device_type=device,
        )
        .training(setting.rows, setting.length)
        .peak.bytes
    )


def measured(setting: Setting, device: str = "cpu") -> int:
    """Return the bytes by which this process, or torch's allocations on the device, grow."""
    import tempfile

    small = {"num_hidden_layers": 1}
    with tempfile.TemporaryDirectory() as workdir:
        _steps(setting, Path(workdir) / "small", device, rows=1, length=16, steps=2, options=small)
        shape = {"rows": setting.rows, "length": setting.length}
        _steps(setting, Path(workdir) / "small", device, **shape, steps=1, options=small)
        ctypes.CDLL(None).malloc_trim(0)
        before = memory_status("VmRSS") if device == "cpu" else torch.cuda.memory_allocated()
        return _steps(setting, Path(workdir) / "model", device, **shape, steps=3, options={}) - before


def _steps(
    setting: Setting, workdir: Path, device: str, *, rows: int, length: int, steps: int, options: dict[str, int]
) -> int:
    from forgather_core.commands.construct import construct
    from forgather_core.training.loss import loss_of
    from forgather_core.training.optimizers import FusedStepper, PlainStepper, optimizer_of

    flags = {
        "device": device,
        "dtype": "bfloat16" if setting.precision == "bf16" else "float32",
        "attn_implementation": setting.attention,
        "gradient_checkpointing": setting.checkpointing,
    }
    model = construct(settings(workdir, setting.template, **flags, **options)).model
    model.train()
    stepper_class = FusedStepper if setting.fused else PlainStepper
    stepper = stepper_class(model, optimizer_of(setting.optimizer, device))
    for _ in range(steps):
        reset_peak_memory()
        if device != "cpu":
            torch.cuda.reset_peak_memory_stats()
        batch = torch.randint(6, 1000, (rows, length)).to(device)
        with torch.autocast(device, torch.bfloat16, enabled=setting.precision == "mixed"):
            inputs = {"input_ids": batch, "labels": batch}
            if setting.packed:
                inputs["position_ids"] = (torch.arange(length, device=device) % (length // 4)).expand(rows, -1)
            loss = loss_of(model, inputs, full_logits=setting.full_logits)
        stepper.backward(loss)
        stepper.optimizer_step()
        del loss
    return memory_status("VmHWM") if device == "cpu" else torch.cuda.max_memory_allocated()


def main() -> int:
    """Print the table and return the exit code: 1 if the bound is exceeded."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="only settings that contain TEXT", metavar="TEXT")
    parser.add_argument("--markdown", action="store_true", help="print the table as Markdown")
    parser.add_argument("--run", type=json.loads, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.run:
        function, setting, device = arguments.run
        print({"estimated": estimated, "measured": measured}[function](Setting(**setting), device))
        return 0
    print(f"{machine()}\n")
    line = "| {:68} | {:>9} | {:>9} | {:>6} |" if arguments.markdown else "{:70} {:>9} {:>9} {:>7}"
    worst = compare("cpu", arguments.only, line)
    if torch.cuda.is_available():
        print(f"\n{torch.cuda.get_device_name()}\n")
        worst = max(worst, compare("cuda", arguments.only, line))
    else:
        print("\nno GPU: its section is skipped")
    return int(worst > BOUND)


def compare(device: str, only: str, line: str) -> float:
    """Print a row per setting and return the largest relative difference."""
    print(line.format("setting", "estimate", "measured", "ratio"))
    if line.startswith("|"):
        print("|---|--:|--:|--:|")
    worst = 0.0
    for setting in (s for s in grid() if only in str(s)):
        task = [asdict(setting), device]
        estimate, peak = (in_process(__file__, [name, *task]) for name in ("estimated", "measured"))
        worst = max(worst, abs(estimate / peak - 1))
        print(
            line.format(str(setting), f"{estimate / 1e6:.1f} MB", f"{peak / 1e6:.1f} MB", f"{estimate / peak:.3f}"),
            flush=True,
        )
    print(f"\nlargest difference {worst:.1%} (bound {BOUND:.0%})")
    return worst


if __name__ == "__main__":
    sys.exit(main())
