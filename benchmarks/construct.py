"""Constructing a model against transformers alone: the command on meta, initial weights, and no initial weights.

python benchmarks/construct.py [--runs 5] [--only initial]

The command is a process of its own, of which CPU time counts. The others build the shape of Llama 3.2 1B in bfloat16
within this process. Exit code 1 where a bound is broken. Linux only.
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
from _common import Case, be_quiet, children, forget_highest_mark, in_turns, machine, parser, settings, status, table
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, LlamaConfig

from forgather_core.export.directory import prepare_directory
from forgather_core.model.build import build
from forgather_core.options.shared import BuildOptions

COMMAND_BOUND = 1.15  # of the script's CPU time
INITIAL_BOUND = 0.5  # of transformers' time, both as medians of runs in turns
SMALL_BOUND = 1.1  # of transformers' time, at 4M
UNSET_BOUND = 1.1  # of the time of the same modules on meta, then allocated
MEMORY_BOUND = 1.03  # of the weights
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


def command(place: Path, runs: int) -> float:
    """`forgather model construct` of a directory that is there: its ratio to the script."""
    directory = place / "small"
    prepare_directory(settings(directory), directory)
    ours = ["-m", "forgather_cli.main", "-t", "llama/4M", "model", "--output-dir", str(directory), "construct"]
    cases = {
        "script of transformers alone": lambda: run(["-c", SCRIPT, str(directory)]),
        "forgather -t llama/4M model construct": lambda: run(ours),
    }
    best = in_turns(cases, runs, children)
    table("the command, on meta (CPU time)", best, "script of transformers alone")
    return best["forgather -t llama/4M model construct"] / best["script of transformers alone"]


def run(arguments: list[str]) -> None:
    subprocess.run(
        [sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL, env=os.environ | {"NO_COLOR": "1"}
    )


def ours(directory: Path, *, initial: bool) -> nn.Module:
    return build(directory, BuildOptions(device="cpu", dtype="bfloat16", no_init_weights=not initial))


def theirs() -> nn.Module:
    return AutoModelForCausalLM.from_config(LlamaConfig(**SHAPE), dtype=torch.bfloat16)


def allocated(directory: Path) -> nn.Module:
    """The same modules, on meta and then allocated."""
    config = AutoConfig.from_pretrained(directory, trust_remote_code=True)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, trust_remote_code=True, dtype=torch.bfloat16)
    return model.to_empty(device="cpu")


def initial(directory: Path, runs: int) -> float:
    """Initial weights: the ratio to transformers' own Llama."""
    cases = {
        "transformers' LlamaForCausalLM.from_config": theirs,
        "forgather, build": lambda: ours(directory, initial=True),
    }
    return medians("1B in bfloat16, initial weights", cases, runs)


def small(place: Path, runs: int) -> float:
    """Initial weights of 4M, where threads could cost more than they save: the ratio to transformers' own Llama."""
    directory = place / "four"
    prepare_directory(settings(directory), directory)
    model: Any = build(directory, BuildOptions(device="cpu", no_init_weights=True))
    native = LlamaConfig(**{name: getattr(model.config, name) for name in SHAPE})
    cases = {
        "transformers' LlamaForCausalLM.from_config": lambda: AutoModelForCausalLM.from_config(native),
        "forgather, init_weights": model.init_weights,
    }
    return medians("4M in float32, initial weights", cases, 4 * runs)


def medians(title: str, cases: dict[str, Case], runs: int) -> float:
    """Print the median time of each of two cases, run in turns, and return the ratio of the second to the first."""
    times: dict[str, list[float]] = {name: [] for name in cases}
    for _ in range(runs):
        for name, seconds in in_turns(cases, 1, warm=False).items():
            times[name].append(seconds)
    middle = {name: statistics.median(found) for name, found in times.items()}
    first, second = middle
    table(title, middle, first, "ms, median")
    return middle[second] / middle[first]


def unset(directory: Path, runs: int) -> float:
    """No initial weights: the ratio to the same modules on meta, then allocated."""
    shapes = shapes_of(directory)
    cases = {
        "the same modules on meta, then to_empty": lambda: allocated(directory),
        "torch.empty of every weight, no modules": lambda: [torch.empty(s, dtype=torch.bfloat16) for s in shapes],
        "forgather, build with --no-init-weights": lambda: ours(directory, initial=False),
    }
    best = in_turns(cases, 5 * runs)
    table("1B in bfloat16, weights left unset", best, "the same modules on meta, then to_empty")
    return best["forgather, build with --no-init-weights"] / best["the same modules on meta, then to_empty"]


def shapes_of(directory: Path) -> list[torch.Size]:
    return [parameter.shape for parameter in ours(directory, initial=False).parameters()]


def memory(directory: Path) -> float:
    """Peaks of memory, each in a process of its own: that of initial weights as a part of the weights."""
    size = 2 * sum(shape.numel() for shape in shapes_of(directory))
    print(f"\n{'1B in bfloat16, growth of memory':62}{'MB':>10}{'ratio':>8}")
    found = {}
    for what, name in (
        ("theirs", "transformers' from_config"),
        ("initial", "forgather"),
        ("unset", "forgather, unset"),
    ):
        program = [sys.executable, __file__, "--peak", what, str(directory)]
        found[what] = int(subprocess.run(program, check=True, capture_output=True, text=True).stdout.split()[-1])
        print(f"{name:62}{found[what] / 1e6:10.1f}{found[what] / size:8.2f}", flush=True)
    return found["initial"] / size


def peak(what: str, directory: Path) -> int:
    """Bytes by which a build raises this process's highest mark of resident memory."""
    with tempfile.TemporaryDirectory() as place:  # code and threads are loaded once
        small = Path(place) / "small"
        prepare_directory(settings(small, hidden_size=512, intermediate_size=2048), small)
        ours(small, initial=True)
    before = status("VmRSS")
    forget_highest_mark()
    model = theirs() if what == "theirs" else ours(directory, initial=what == "initial")
    grown = status("VmHWM") - before
    del model
    return grown


def main() -> int:
    """Print the tables; exit code 1 where a bound is broken."""
    options = parser(__doc__, runs=5)
    options.add_argument("--only", choices=["command", "initial", "small", "unset", "memory"], help="a single table")
    options.add_argument("--peak", nargs=2, help=argparse.SUPPRESS)
    asked = options.parse_args()
    be_quiet()
    if asked.peak:
        print(peak(asked.peak[0], Path(asked.peak[1])))
        return 0
    print(f"{asked.runs} runs, {machine()}")
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name) / "large"
        prepare_directory(settings(directory, **SHAPE), directory)
        tables = {
            "command": lambda: command(Path(name), asked.runs),
            "initial": lambda: initial(directory, asked.runs),
            "small": lambda: small(Path(name), asked.runs),
            "unset": lambda: unset(directory, asked.runs),
            "memory": lambda: memory(directory),
        }
        found = {what: make() for what, make in tables.items() if asked.only in (None, what)}
    print()
    for what, ratio in found.items():
        print(f"{what}: {ratio:.2f} (bound {BOUNDS[what]})")
    return int(any(ratio > BOUNDS[what] for what, ratio in found.items()))


if __name__ == "__main__":
    sys.exit(main())
