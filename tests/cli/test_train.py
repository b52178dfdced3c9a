"""`train`, `sample` and `eval` on the command line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from .conftest import Cli

SMALL = ("--num-hidden-layers", "1", "--hidden-size", "32", "--intermediate-size", "32", "--num-attention-heads", "4")
RUN = ("train", "--dataset-project", "texts", "--tokens", "1k", "--sequence-length", "32", "--batch-size", "4")
MODEL = ("-t", "llama/4M", "model", "--device", "cpu", "--tokenizer", "bytes", *SMALL)


@pytest.fixture
def texts() -> None:
    Path("texts").mkdir()
    for number in range(20):
        Path(f"texts/{number}.txt").write_text(f"the text of number {number} is like the others " * 6)


@pytest.mark.usefixtures("texts")
def test_a_run_from_text_to_continuation(cli: Cli) -> None:
    ran = cli(*MODEL, *RUN, "-o", "run.html")
    assert ran.code == 0, ran.err
    lines = ran.err.splitlines()
    assert lines[0].startswith("training llama_4m (")
    assert lines[1] == "8 steps of 4 rows, 1.02 k tokens, from texts, training part"
    assert any(line.startswith("held out: 1 document, ") for line in lines)
    assert any(line.startswith("cost: about ") for line in lines)
    assert any(line.startswith("step 8: loss ") for line in lines)
    assert "Training run" in Path("run.html").read_text()
    sampled = cli("sample", "output_models/llama_4m", "the text", "--max-new-tokens", "5", "--device", "cpu")
    assert sampled.out.startswith("the text")
    evaluated = cli(
        *("eval", "output_models/llama_4m", "--dataset-project", "texts", "--held-out", "--device", "cpu"),
        *("--sequence-length", "32", "--json"),
    )
    report = json.loads(Path("output_models/llama_4m/train.json").read_text())
    assert evaluated.json["loss"] == pytest.approx(report["final"]["loss"], rel=1e-6)


@pytest.mark.usefixtures("texts")
def test_the_view_fits_into_80_columns(cli: Cli) -> None:
    ran = cli(*MODEL, *RUN)
    assert "Training of llama_4m" in ran.out
    assert "bits per byte" in ran.out


@pytest.mark.usefixtures("texts")
@pytest.mark.parametrize("step", [1, 3])
def test_ctrl_c_names_the_last_checkpoint(cli: Cli, step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    from forgather_cli.progress import TrainingProgress

    def interrupt(_: TrainingProgress, record: Any) -> None:
        if record.step == step:
            raise KeyboardInterrupt

    monkeypatch.setattr(TrainingProgress, "record", interrupt)
    ran = cli(*MODEL, *RUN, "--save-every", "2", "--eval-every", "2")
    assert (ran.code, ran.err.splitlines()[-1]) == (130, "forgather: interrupted")
    saved = "checkpoint-2; the same command with --resume continues from it"
    assert ran.err.splitlines()[-2].endswith(saved if step == 3 else "had no checkpoint yet (see --save-every)")
    if step == 3:
        error = cli("sample", "output_models/llama_4m", "x").error
        assert "has no final weights, because its training run has not ended: name its last checkpoint, " in error
        checkpoint = "output_models/llama_4m/checkpoints/checkpoint-2"
        words = ("--dataset-project", "texts", "--held-out", "--device", "cpu", "--sequence-length", "32")
        assert cli("eval", checkpoint, *words).code == 0


def test_wrong_input_is_one_line(cli: Cli) -> None:
    assert cli(*MODEL, "train").error == "--dataset-project is required: name a file or directory of text, or stdlib"
    assert "--tokens: expected a number of tokens" in cli(*MODEL, *RUN, "--tokens", "x").error
    assert "--save-checkpoint has no effect on 'train'" in cli(*MODEL, *RUN, "--save-checkpoint").error
    assert "--steps" in cli(*MODEL, *RUN, "--steps", "3").error
    assert cli("sample", "nowhere", "x").error == "nowhere does not exist: name a model directory"
    Path("there").mkdir()
    Path("there/config.json").write_text("{}")
    assert cli("sample", "there", "--device", "meta").error == ("--device must be cpu, cuda, cuda:N or mps; got 'meta'")
    assert "--dataset-project" in cli("eval", "nowhere").error
    assert cli(*MODEL, "test", "--tokens", "3").error.startswith("--tokens has no effect on 'test'")


def test_a_missing_package_is_named(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("forgather_core.runtime.extras._is_installed", lambda _: False)
    assert (
        cli(*MODEL, *RUN).error
        == "the package accelerate is not installed: install it with: pip install 'forgather[train]'"
    )
