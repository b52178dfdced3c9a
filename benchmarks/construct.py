"""Compare model construction with transformers: the command on meta, then builds with and without initialization.

python benchmarks/construct.py [--runs 5] [--only initial]

The command runs in a new process and is measured in CPU time. The other cases build a Llama 3.2 1B in bfloat16 in this
process. The exit code is 1 if a bound is exceeded. Linux only.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from _common import (
    Case,
    best_times,
    children_cpu_seconds,
    machine,
    memory_status,
    parser,
    reset_peak_memory,
    settings,
    silence_transformers,
    table,
)
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, LlamaConfig

from forgather_core.export.directory import prepare_directory
from forgather_core.model.build import build
from forgather_core.options.shared import BuildOptions

COMMAND_BOUND = 1.15  # x the script's CPU time
INITIAL_BOUND = 0.5  # x transformers' time, medians of alternating runs
SMALL_BOUND = 1.1  # x transformers' time, at 4M
UNSET_BOUND = 1.1  # x the time of building the same modules on meta and allocating them
MEMORY_BOUND = 1.03  # x the size of the weights
BOUNDS = {
    "command": COMMAND_BOUND, "initial": INITIAL_BOUND, "small": SMALL_BOUND, "unset": UNSET_BOUND,
    "memory": MEMORY_BOUND,
}  # fmt: skip
SHAPE = {
    "hidden_size": 2048, "intermediate_size": 8192, "num_attention_heads": 32, "num_key_value_heads": 8,
    "num_hidden_layers": 16, "vocab_size": 128_256, "tie_word_embeddings": True,
}  # fmt: skip
SCRIPT = """
import sys, torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer
config = AutoConfig.from_pretrained(sys.argv[1], trust_remote_code=True)
with torch.device("meta"):
    model = AutoModelForCausalLM.from_config(config, trust_remote_code=True)
tokenizer = AutoTokenizer.from_pretrained(sys.argv[1], trust_remote_code=True)
print(sum(p.numel() for p in model.parameters()))
"""


def command(workdir: Path, runs: int) -> float:
    """Return the CPU time of `forgather model construct` on an existing directory, relative to the script."""
    directory = workdir / "small"
    prepare_directory(settings(directory), directory)
    program = ["-m", "forgather_cli.main", "-t", "llama/4M", "model", "--output-dir", str(directory), "construct"]
    cases = {
        "script of transformers alone": lambda: run(["-c", SCRIPT, str(directory)]),
        "forgather -t llama/4M model construct": lambda: run(program),
    }
    best = best_times(cases, runs, children_cpu_seconds)
    table("the command, on meta (CPU time)", best, "script of transformers alone")
    return best["forgather -t llama/4M model construct"] / best["script of transformers alone"]


def run(arguments: list[str]) -> None:
    subprocess.run(
        [sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL, env=os.environ | {"NO_COLOR": "1"}
    )


def build_exported(directory: Path, *, initial: bool) -> nn.Module:
    return build(directory, BuildOptions(device="cpu", dtype="bfloat16", no_init_weights=not initial))


def build_native() -> nn.Module:
    return AutoModelForCausalLM.from_config(LlamaConfig(**SHAPE), dtype=torch.bfloat16)


def allocated(directory: Path) -> nn.Module:
    """Build the same modules on meta, then allocate them."""
    config = AutoConfig.from_pretrained(directory, trust_remote_code=True)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, trust_remote_code=True, dtype=torch.bfloat16)
    return model.to_empty(device="cpu")


def initial(directory: Path, runs: int) -> float:
    """Return the time of a build with initial weights, relative to transformers' Llama."""
    cases = {
        "transformers' LlamaForCausalLM.from_config": build_native,
        "forgather, build": lambda: build_exported(directory, initial=True),
    }
    return medians("1B in bfloat16, initial weights", cases, runs)


def small(workdir: Path, runs: int) -> float:
    """Return the time to initialize llama/4M, relative to transformers' Llama.

    For a model of this size, threads could cost more time than they save.
    """
    directory = workdir / "four"
    prepare_directory(settings(directory), directory)
    model: Any = build(directory, BuildOptions(device="cpu", no_init_weights=True))
    native = LlamaConfig(**{name: getattr(model.config, name) for name in SHAPE})
    cases = {
        "transformers' LlamaForCausalLM.from_config": lambda: AutoModelForCausalLM.from_config(native),
        "forgather, init_weights": model.init_weights,
    }
    return medians("4M in float32, initial weights", cases, 4 * runs)


def medians(title: str, cases: dict[str, Case], runs: int) -> float:
    """Print the median times of two cases from interleaved runs, and return the ratio of the second to the first."""
    times: dict[str, list[float]] = {name: [] for name in cases}
    for _ in range(runs):
        for name, seconds in best_times(cases, 1, warm=False).items():
            times[name].append(seconds)
    by_case = {name: statistics.median(seconds) for name, seconds in times.items()}
    first, second = by_case
    table(title, by_case, first, "ms, median")
    return by_case[second] / by_case[first]


def unset(directory: Path, runs: int) -> float:
    """Return the time of a build without initial weights, relative to allocating the same modules from meta."""
    shapes = shapes_of(directory)
    cases = {
        "the same modules on meta, then to_empty": lambda: allocated(directory),
        "torch.empty of every weight, no modules": lambda: [torch.empty(s, dtype=torch.bfloat16) for s in shapes],
        "forgather, build with --no-init-weights": lambda: build_exported(directory, initial=False),
    }
    best = best_times(cases, 5 * runs)
    table("1B in bfloat16, weights left unset", best, "the same modules on meta, then to_empty")
    return best["forgather, build with --no-init-weights"] / best["the same modules on meta, then to_empty"]


def shapes_of(directory: Path) -> list[torch.Size]:
    return [parameter.shape for parameter in build_exported(directory, initial=False).parameters()]


def memory(directory: Path) -> float:
    """Print the peak memory of each build, in its own process; return that of `initial` relative to the weights."""
    size = 2 * sum(shape.numel() for shape in shapes_of(directory))
    print(f"\n{'1B in bfloat16, peak memory':62}{'MB':>10}{'ratio':>8}")
    peaks = {}
    for build_kind, name in (
        ("native", "transformers' from_config"),
        ("initial", "forgather"),
        ("unset", "forgather, unset"),
    ):
        program = [sys.executable, __file__, "--peak", build_kind, str(directory)]
        peaks[build_kind] = int(subprocess.run(program, check=True, capture_output=True, text=True).stdout.split()[-1])
        print(f"{name:62}{peaks[build_kind] / 1e6:10.1f}{peaks[build_kind] / size:8.2f}", flush=True)
    return peaks["initial"] / size


def peak(build_kind: str, directory: Path) -> int:
    """Return the increase of the process's peak resident memory during a build, in bytes."""
    with tempfile.TemporaryDirectory() as workdir:  # loads code and starts threads before the measurement
        small = Path(workdir) / "small"
        prepare_directory(settings(small, hidden_size=512, intermediate_size=2048), small)
        build_exported(small, initial=True)
    before = memory_status("VmRSS")
    reset_peak_memory()
    model = build_native() if build_kind == "native" else build_exported(directory, initial=build_kind == "initial")
    grown = memory_status("VmHWM") - before
    del model
    return grown


def main() -> int:
    """Print the tables and return the exit code: 1 if a bound is exceeded."""
    options = parser(__doc__, runs=5)
    options.add_argument("--only", choices=list(BOUNDS), help="print only this table")
    options.add_argument("--peak", nargs=2, help=argparse.SUPPRESS)
    arguments = options.parse_args()
    silence_transformers()
    if arguments.peak:
        print(peak(arguments.peak[0], Path(arguments.peak[1])))
        return 0
    print(f"{arguments.runs} runs, {machine()}")
    with tempfile.TemporaryDirectory() as workdir:
        directory = Path(workdir) / "large"
        prepare_directory(settings(directory, **SHAPE), directory)
        tables = {
            "command": lambda: command(Path(workdir), arguments.runs),
            "initial": lambda: initial(directory, arguments.runs),
            "small": lambda: small(Path(workdir), arguments.runs),
            "unset": lambda: unset(directory, arguments.runs),
            "memory": lambda: memory(directory),
        }
        ratios = {name: measure() for name, measure in tables.items() if arguments.only in (None, name)}
    print()
    for name, ratio in ratios.items():
        print(f"{name}: {ratio:.2f} (bound {BOUNDS[name]})")
    return int(any(ratio > BOUNDS[name] for name, ratio in ratios.items()))


if __name__ == "__main__":
    sys.exit(main())
