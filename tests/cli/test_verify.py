"""`verify`: output, exit codes and errors."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from .conftest import LLAMA, Cli

QUICK = ("--checks", "causality,batch-invariance,manifest")
DIRECTORY = Path("output_models/llama_4m")


@pytest.fixture
def directory(cli: Cli) -> Path:
    assert cli(*LLAMA, "--tokenizer", "bytes", "construct").code == 0
    return DIRECTORY


def plant(directory: Path, old: str, new: str, file: str = "masks.py") -> None:
    text = (directory / file).read_text()
    assert old in text
    (directory / file).write_text(text.replace(old, new))


def test_a_definition_is_verified(cli: Cli) -> None:
    done = cli(*LLAMA, "verify", *QUICK)
    assert (done.code, done.err) == (0, "")
    for part in (
        "causality",
        "batch-invariance",
        "manifest",
        "passed",
        "small copy with the same features",
        "3 passed, 0 failed, 0 skipped, in ",
    ):
        assert part in done.out
    assert DIRECTORY.is_dir()


def test_a_check_that_does_not_apply_is_counted_and_explained(cli: Cli) -> None:
    done = cli(*LLAMA, "verify", "--checks", "sliding-window")
    assert done.code == 0
    assert "0 passed, 0 failed, 1 skipped, in " in done.out
    assert "sliding-window skipped: " in done.out


def test_a_directory_is_verified(cli: Cli, directory: Path) -> None:
    report = cli("verify", str(directory), *QUICK, "--json").json
    assert [check["name"] for check in report["checks"]] == ["causality", "batch-invariance", "manifest"]
    assert {check["result"] for check in report["checks"]} == {"passed"}
    assert report["full"] is False
    assert report["checks"][0]["promise"] == "Changing a token never changes the logits at earlier positions."
    assert all(one["holds"] for check in report["checks"] for one in check["measured"])


def test_a_failure_is_shown_with_place_and_cause(cli: Cli, directory: Path) -> None:
    plant(directory, "MASKS[kind.layer_type](", "_everything(")
    plant(directory, "def decoder_mask(", "def _everything(**_):\n    return None\n\n\ndef decoder_mask(")
    done = cli("verify", str(directory), "--checks", "causality,manifest,batch-invariance")
    assert (done.code, done.err) == (1, "")
    assert "causality: Changing a token never changes the logits at earlier positions." in done.out
    assert "tokens from 1 on replaced: off by" in done.out
    assert "at row" in done.out
    assert "usual cause: a mask that is dropped" in done.out
    assert "masks.py" in done.out, "the manifest knows which file"
    assert "1 passed, 2 failed" in done.out


def test_a_seed_selects_other_texts_and_is_shown(cli: Cli, directory: Path) -> None:
    words = ("verify", str(directory), "--checks", "positions")
    assert "seed" not in cli(*words).out
    done = cli(*words, "--seed", "3")
    assert f"{directory}, small copy with the same features, seed 3" in done.out.replace("\n", " ")
    measured = [cli(*words, *seed, "--json").json["checks"][0]["measured"] for seed in ((), ("--seed", "3"))]
    assert measured[0] != measured[1]


def test_a_check_that_raises_has_failed(cli: Cli, directory: Path) -> None:
    plant(
        directory,
        "        hidden_states = outputs.last_hidden_state\n",
        "        raise KeyError('ouch')\n",
        "language_model.py",
    )
    done = cli("verify", str(directory), "--checks", "batch-invariance")
    assert done.code == 1
    assert "KeyError: 'ouch' (language_model.py:" in done.out


def test_checks_are_listed(cli: Cli) -> None:
    listed = cli(*LLAMA, "verify", "--list", "--json").json["checks"]
    assert len(listed) >= 25
    assert all(check["promise"].endswith(".") for check in listed)
    assert "packing-isolation" in cli(*LLAMA, "verify", "--list").out
    quick = cli(*LLAMA, "verify", "--list", "--quick", "--json").json["checks"]
    assert {check["name"] for check in listed} - {check["name"] for check in quick} == {
        "call-state",
        "config-fields",
        "torch-compile",
        "other-options",
        "standalone",
    }


def test_a_report_goes_into_a_file(cli: Cli) -> None:
    assert cli(*LLAMA, "-o", "report.json", "verify", "--checks", "batch-invariance").code == 0
    assert json.loads(Path("report.json").read_text())["passed"] == 1


def test_what_is_wrong_is_one_line(cli: Cli) -> None:
    assert "there is no check 'causalty'. Did you mean 'causality'?" in cli("verify", ".", "--checks", "causalty").error
    assert "is not a model directory: it has no config.json: name a model directory" in cli("verify", ".").error
    assert "nowhere does not exist: name a model directory" in cli("verify", "nowhere").error


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            "--checks padding --strength 3",
            "--strength has no effect without the check call-agreement: remove it, or add",
        ),
        ("--case cache=static --strength 3", "--strength has no effect with --case: remove it"),
        ("--case cache=static --checks padding", "--case requires the check call-agreement: add it to --checks"),
        (
            "--case cache=none,padding=up",
            "--case: padding must be one of none, left, right, both, middle; got 'up': copy the id from a report",
        ),
        (
            "--case padding=left,padding=right,mask=2d",
            "--case: padding has two levels, 'left' and 'right': copy the id",
        ),
        ("--case color=red", "--case: 'color=red' is not a level of a factor, FACTOR=LEVEL (factors: "),
        ("--case padding=left", "--case: padding=left, mask=none: padding requires a mask: change one of these levels"),
        ("--strength 4", "--strength"),
        ("--junit missing/report.xml", "--junit: the directory missing does not exist: create it"),
    ],
)
def test_options_of_call_agreement_take_effect_or_are_refused(words: str, message: str, cli: Cli) -> None:
    done = cli(*LLAMA, "verify", *words.split())
    assert done.code == 2
    assert message in done.err
    assert len(done.err.splitlines()) == 1
