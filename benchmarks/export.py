"""Writing and loading model directories against transformers' own: as ratios, without a bound.

python benchmarks/export.py [--runs 10]

A directory of ours has the model's source in it: to write it costs following imports, to load it costs transformers'
copying and hashing of those files. What a peer has not to do it does not: transformers' directory is a configuration
and a tokenizer. Weights are safetensors, in the page cache.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from _common import be_quiet, in_turns, machine, parser, settings, table
from generate import SHAPES, pair
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from forgather_core.construct import construct
from forgather_core.export.directory import prepare_directory


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


def main() -> int:
    """Print the tables."""
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
    return 0


if __name__ == "__main__":
    sys.exit(main())
