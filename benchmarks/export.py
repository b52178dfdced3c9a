"""Writing and loading model directories against transformers' own, as ratios.

python benchmarks/export.py [--runs 10]

A directory of ours has the model's source in it: to write it costs following imports, to load it costs transformers'
copying and hashing of those files. What a peer has not to do it does not: transformers' directory is a configuration
and a tokenizer. Weights are safetensors, in the page cache.

The bound is for from_pretrained of 4M, medians in turns: of all of it, or of what is left without the time in
transformers' loader of remote code (dynamic_module_utils), which is not ours. Exit code 1 where both miss it.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from _common import bar, be_quiet, in_turns, machine, parser, settings, table
from generate import SHAPES, pair
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer
from transformers.models.auto import auto_factory, configuration_auto

from forgather_core.commands.construct import construct
from forgather_core.export.directory import prepare_directory

BOUND = 1.5


def writing(place: Path, theirs: Any, tokenizer: Any, runs: int) -> None:
    asked, beside = settings(place / "written"), place / "beside"

    def configuration() -> None:
        theirs.config.save_pretrained(beside)
        theirs.generation_config.save_pretrained(beside)
        tokenizer.save_pretrained(beside)

    peer = "transformers, configuration and tokenizer"
    cases = {
        peer: configuration,
        "forgather, the directory anew (construct -r)": lambda: prepare_directory(
            asked, place / "written", refresh=True
        ),
        "forgather, the directory that is there": lambda: prepare_directory(asked, place / "written"),
    }
    prepare_directory(asked, place / "written")
    table("4M, a directory without weights", in_turns(cases, runs), peer)


def loading(name: str, ours: Path, theirs: Path, runs: int) -> None:
    cases = {
        "transformers, AutoConfig": lambda: AutoConfig.from_pretrained(theirs),
        "forgather, AutoConfig": lambda: AutoConfig.from_pretrained(ours, trust_remote_code=True),
        "transformers, from_pretrained": lambda: AutoModelForCausalLM.from_pretrained(theirs),
        "forgather, from_pretrained": lambda: AutoModelForCausalLM.from_pretrained(ours, trust_remote_code=True),
    }
    table(f"{name}, loading", in_turns(cases, runs), "transformers, from_pretrained")


def within_bound(ours: Path, theirs: Path, runs: int) -> bool:
    """Print the medians of from_pretrained as ratios, with and without the loader of remote code."""
    in_loader = 0.0

    def timed(function: Any) -> Any:
        def run(*args: Any, **kwargs: Any) -> Any:
            nonlocal in_loader
            began = time.perf_counter()
            try:
                return function(*args, **kwargs)
            finally:
                in_loader += time.perf_counter() - began

        return run

    for module in (auto_factory, configuration_auto):
        module.get_class_from_dynamic_module = timed(module.get_class_from_dynamic_module)
    whole, rest, peer = [], [], []
    for number in range(runs + 1):  # the first warms caches
        began = time.perf_counter()
        AutoModelForCausalLM.from_pretrained(theirs)
        middle, in_loader = time.perf_counter(), 0.0
        AutoModelForCausalLM.from_pretrained(ours, trust_remote_code=True)
        if number:
            peer.append(middle - began)
            whole.append(time.perf_counter() - middle)
            rest.append(whole[-1] - in_loader)
    print()
    base = statistics.median(peer)
    return any(
        [
            bar("from_pretrained, 4M", statistics.median(whole) / base, BOUND),
            bar("from_pretrained, 4M, without dynamic_module_utils", statistics.median(rest) / base, BOUND),
        ]
    )


def main() -> int:
    """Print the tables; exit code 1 where the bound is broken."""
    asked = parser(__doc__, runs=10).parse_args()
    be_quiet()
    print(f"{asked.runs} runs, {machine()}")
    with tempfile.TemporaryDirectory() as text:
        place = Path(text)
        for name, shape in SHAPES.items():
            ours, theirs = place / name, place / f"{name} of transformers"
            construct(settings(ours, device="cpu", save_checkpoint=True, safetensors=True, **shape))
            model = pair(ours, torch.float32)["theirs"]
            model.save_pretrained(theirs)
            if name == "4M":
                tokenizer = AutoTokenizer.from_pretrained(ours, trust_remote_code=True)
                writing(place, model, tokenizer, asked.runs)
            loading(name, ours, theirs, asked.runs)
        passed = within_bound(place / "4M", place / "4M of transformers", 2 * asked.runs)
    return int(not passed)


if __name__ == "__main__":
    sys.exit(main())
