"""Compare the time to write and load model directories with that of transformers, as ratios.

python benchmarks/export.py [--runs 10]

An exported directory contains the sources of the model: Forgather follows their imports to write it, and transformers
copies and hashes them to load it. The directory of transformers has only a configuration and a tokenizer. Weights are
safetensors in the page cache.

The bound applies to from_pretrained of 4M, as the median of interleaved runs: to the total time, or to the time without
transformers' loader of remote code (dynamic_module_utils). Exit code 1 if both exceed it.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from _common import best_times, check_bound, machine, parser, settings, silence_transformers, table
from generate import SHAPES, pair
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer
from transformers.models.auto import auto_factory, configuration_auto

from forgather_core.commands.construct import construct
from forgather_core.export.directory import prepare_directory

BOUND = 1.5


def time_writing(workdir: Path, native: Any, tokenizer: Any, runs: int) -> None:
    """Print the times to write a directory without weights."""
    resolved, peer_directory = settings(workdir / "written"), workdir / "native"

    def configuration() -> None:
        native.config.save_pretrained(peer_directory)
        native.generation_config.save_pretrained(peer_directory)
        tokenizer.save_pretrained(peer_directory)

    peer = "transformers, configuration and tokenizer"
    cases = {
        peer: configuration,
        "forgather, rebuild (construct -r)": lambda: prepare_directory(resolved, workdir / "written", refresh=True),
        "forgather, reuse": lambda: prepare_directory(resolved, workdir / "written"),
    }
    prepare_directory(resolved, workdir / "written")
    table("4M, a directory without weights", best_times(cases, runs), peer)


def time_loading(name: str, exported: Path, native: Path, runs: int) -> None:
    """Print the times to load a configuration and a model."""
    cases = {
        "transformers, AutoConfig": lambda: AutoConfig.from_pretrained(native),
        "forgather, AutoConfig": lambda: AutoConfig.from_pretrained(exported, trust_remote_code=True),
        "transformers, from_pretrained": lambda: AutoModelForCausalLM.from_pretrained(native),
        "forgather, from_pretrained": lambda: AutoModelForCausalLM.from_pretrained(exported, trust_remote_code=True),
    }
    table(f"{name}, loading", best_times(cases, runs), "transformers, from_pretrained")


def within_bound(exported: Path, native: Path, runs: int) -> bool:
    """Print the median ratios of from_pretrained, with and without the loader of remote code.

    Returns:
        Whether one of the ratios is within the bound.
    """
    in_loader = 0.0

    def timed(function: Any) -> Any:
        def run(*args: Any, **kwargs: Any) -> Any:
            nonlocal in_loader
            start = time.perf_counter()
            try:
                return function(*args, **kwargs)
            finally:
                in_loader += time.perf_counter() - start

        return run

    for module in (auto_factory, configuration_auto):
        module.get_class_from_dynamic_module = timed(module.get_class_from_dynamic_module)
    total, without_loader, peer = [], [], []
    for number in range(runs + 1):  # the first warms caches
        start = time.perf_counter()
        AutoModelForCausalLM.from_pretrained(native)
        middle, in_loader = time.perf_counter(), 0.0
        AutoModelForCausalLM.from_pretrained(exported, trust_remote_code=True)
        if number:
            peer.append(middle - start)
            total.append(time.perf_counter() - middle)
            without_loader.append(total[-1] - in_loader)
    print()
    base = statistics.median(peer)
    return any(
        [
            check_bound("from_pretrained, 4M", statistics.median(total) / base, BOUND),
            check_bound(
                "from_pretrained, 4M, without dynamic_module_utils", statistics.median(without_loader) / base, BOUND
            ),
        ]
    )


def main() -> int:
    """Print the tables and return the exit code: 1 if the bound is exceeded."""
    arguments = parser(__doc__, runs=10).parse_args()
    silence_transformers()
    print(f"{arguments.runs} runs, {machine()}")
    with tempfile.TemporaryDirectory() as text:
        workdir = Path(text)
        for name, shape in SHAPES.items():
            exported, native = workdir / name, workdir / f"{name} of transformers"
            construct(settings(exported, device="cpu", save_checkpoint=True, safetensors=True, **shape))
            model = pair(exported, torch.float32)["native"]
            model.save_pretrained(native)
            if name == "4M":
                tokenizer = AutoTokenizer.from_pretrained(exported, trust_remote_code=True)
                time_writing(workdir, model, tokenizer, arguments.runs)
            time_loading(name, exported, native, arguments.runs)
        passed = within_bound(workdir / "4M", workdir / "4M of transformers", 2 * arguments.runs)
    return int(not passed)


if __name__ == "__main__":
    sys.exit(main())
