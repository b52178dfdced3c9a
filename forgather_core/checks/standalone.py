"""Standalone: a directory requires transformers and nothing else, in a process that cannot import Forgather."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..definitions.check import Measured, check, expect
from .shared.model_under_test import ModelUnderTest
from .shared.other_values import values_of_equal_shapes
from .shared.tolerance import compare, different_tensors, rounding

_TIMEOUT = 300  # seconds

_PROGRAM = """
import json, sys
import torch

given = json.loads(sys.argv[1])


class RefuseImports:
    def find_spec(self, name, path=None, target=None):
        top = name.partition(".")[0]
        if top in given["refused"] or top.startswith("forgather"):
            raise ModuleNotFoundError(f"No module named '{name}'", name=name)


sys.meta_path.insert(0, RefuseImports())
torch.set_num_threads(given["threads"])
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, AutoTokenizer

workdir, saved, remote = given["workdir"], given["saved"], {"trust_remote_code": True} if given["remote"] else {}
text = torch.load(given["text"])
found = {}


def attempt(name):
    def take(step):
        try:
            with torch.no_grad():
                step()
            found[name] = None
        except Exception as error:
            found[name] = f"{type(error).__name__}: {' '.join(str(error).split())}"
    return take


@attempt("AutoConfig")
def _():
    global config
    config = AutoConfig.from_pretrained(workdir, **remote)


if given["another"]:
    @attempt("another model of the class")
    def _():
        other = AutoConfig.from_pretrained(workdir, **given["another"], **remote)
        AutoModelForCausalLM.from_config(other, **remote).eval()(text)


if given["tokenizer"]:
    @attempt("AutoTokenizer")
    def _():
        tokenizer = AutoTokenizer.from_pretrained(workdir, **remote)
        assert tokenizer("def main():")["input_ids"], "no tokens"


@attempt("initial weights")
def _():
    torch.manual_seed(given["seed"])
    how = {"attn_implementation": given["attention"]} if given["attention"] else {}
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32, **how, **remote)
    torch.save(dict(model.named_parameters()), given["weights"])


@attempt("AutoModelForCausalLM.from_config, bare")
def _():
    assert AutoModelForCausalLM.from_config(config)(text).logits.isfinite().all(), "logits are not finite"


if remote:
    @attempt("AutoModelForCausalLM.from_config, trust_remote_code")
    def _():
        assert AutoModelForCausalLM.from_config(config, **remote)(text).logits.isfinite().all(), "logits are not finite"


@attempt("AutoModel.from_config")
def _():
    assert AutoModel.from_config(config, **remote)(text).last_hidden_state.isfinite().all(), "states are not finite"


@attempt("AutoModel.from_pretrained")
def _():
    model, info = AutoModel.from_pretrained(saved, output_loading_info=True, **remote)
    assert not info["missing_keys"], f"missing: {sorted(info['missing_keys'])}"


@attempt("AutoModelForCausalLM.from_pretrained")
def _():
    model = AutoModelForCausalLM.from_pretrained(saved, dtype=torch.float32, **remote)
    torch.save(model(text).logits, given["logits"])


@attempt("no module of Forgather is imported")
def _():
    imported = [n for n in sys.modules if n.partition(".")[0] in given["refused"] or n.startswith("forgather")]
    assert not imported, ", ".join(imported)


print("\\n" + json.dumps(found))
"""


@check("standalone", cause="an import from outside the directory, or a file that a loader does not copy", quick=False)
def standalone(subject: ModelUnderTest) -> Iterator[Measured]:
    """The directory loads and gives the same logits with transformers alone, without Forgather and its plugins."""
    model, text = subject.randomized_model(), subject.tokens(2)
    with torch.no_grad():
        expected = model(text).logits
    with subject.scratch() as directory:
        torch.save(text, directory / "text.pt")
        given = {
            "workdir": str(subject.workdir),
            "saved": str(subject.save(model, directory)),
            "text": str(directory / "text.pt"),
            "logits": str(directory / "logits.pt"),
            "refused": sorted({point.module.partition(".")[0] for point in entry_points(group="forgather.models")}),
            "remote": not subject.is_builtin,
            "tokenizer": (subject.workdir / "tokenizer_config.json").is_file(),
            "threads": torch.get_num_threads(),
            "another": values_of_equal_shapes(subject.text_config.to_dict()),
            "weights": str(directory / "weights.pt"),
            "seed": subject.seed,
            "attention": subject.default_attention,
        }
        for name, problem in _run(given, directory).items():
            yield expect(name, problem is None, failure=f"{name}: {problem}")
        if (directory / "weights.pt").is_file():
            weights = torch.load(directory / "weights.pt")
            wrong = different_tensors(weights, dict(subject.fresh_model().named_parameters()))
            failure = f"the same seed gives other initial weights in another process: {', '.join(wrong[:3])}"
            yield expect("the same seed gives the same initial weights", not wrong, failure=failure)
        if (directory / "logits.pt").is_file():
            logits = torch.load(directory / "logits.pt")
            found = compare("the logits are the same", logits, expected, rounding(model))
            yield found if found.holds or not given["another"] else _without_another(found, given, directory, expected)


def _without_another(found: Measured, given: dict[str, Any], directory: Path, expected: Tensor) -> Measured:
    """Return a failure whose text states whether another model that was called first is the cause."""
    (directory / "logits.pt").unlink()
    _run(given | {"another": {}}, directory)
    if not (directory / "logits.pt").is_file():
        return found
    alone = compare(found.what, torch.load(directory / "logits.pt"), expected, found.tolerance)
    failure = f"another model of the class, called first, changes the logits by {found.error:.2g}"
    return replace(found, failure=failure) if alone.holds else found


def _run(given: dict[str, Any], directory: Path) -> dict[str, str | None]:
    """Return the error of each step of the program; None if it succeeded."""
    environment = os.environ | {
        "HF_MODULES_CACHE": str(directory / "modules"),
        "HF_HUB_OFFLINE": "1",
        "PYTHONHASHSEED": "1",  # Python's hashes of strings differ from those of this process
    }
    try:
        done = subprocess.run(
            [sys.executable, "-c", _PROGRAM, json.dumps(given)],
            cwd=directory,
            env=environment,
            capture_output=True,
            text=True,
            timeout=_TIMEOUT,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return {"the program": f"the process did not end within {_TIMEOUT} s"}
    if done.returncode:
        return {"the program": next(iter(done.stderr.strip().splitlines()[-1:]), f"exit {done.returncode}")}
    found: dict[str, str | None] = json.loads(done.stdout.strip().splitlines()[-1])
    return found
