"""A trial from settings to report."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from forgather_core.construct import construct
from forgather_core.errors import ForgatherError
from forgather_core.shared_options import TrialOptions
from forgather_core.trial import Step, check_trial, run_trial_of
from tests.core.export.conftest import Settle, small  # noqa: F401 - a fixture


def trial(settle: Settle, project: Path, flags: dict[str, Any] | None = None, **options: Any) -> dict[str, Any]:
    made = construct(settle(device="cpu", **flags or {}), project=project)
    return run_trial_of(made, TrialOptions(**{"sequence_length": 32} | options))


def test_the_report(small: Settle, tmp_path: Path) -> None:  # noqa: F811
    seen: list[Step] = []
    made = construct(small(device="cpu", attn_implementation="eager", gradient_checkpointing=True), project=tmp_path)
    options = TrialOptions(steps=3, sequence_length=16, batch_size=3, packed=True, fuse_optim_with_backward=True)
    report = run_trial_of(made, options, on_step=seen.append)
    assert report["steps"] == [step.as_dict() for step in seen]
    assert [step.tokens for step in seen] == [48] * 3
    setup = report["setup"]
    assert (setup["attention"], setup["gradient_checkpointing"]) == ("eager", True)
    assert (setup["batch"], setup["data"]) == ("3 x 16, packed", "random tokens")
    assert setup["optimizer"] == "SGD, lr 0.01, fused with backward"
    assert report["notes"] == []


def test_one_seed_gives_one_trial_and_options_do_something(small: Settle, tmp_path: Path) -> None:  # noqa: F811
    def losses(flags: dict[str, Any] | None = None, **options: Any) -> list[float]:
        return [step["loss"] for step in trial(small, tmp_path, flags, steps=2, **options)["steps"]]

    base = losses()
    assert losses() == base
    for flags in ({"seed": 1}, {"dtype": "bfloat16"}):
        assert losses(flags) != base
    for change in ({"packed": True}, {"batch_size": 3}, {"sequence_length": 16}, {"dataset_project": "stdlib"}):
        assert losses(None, **change) != base
    assert losses(lr=0.5)[0] == base[0]
    assert losses(lr=0.5)[1] != base[1]


def test_what_a_user_must_know_is_noted(small: Settle, tmp_path: Path) -> None:  # noqa: F811
    report = trial(small, tmp_path, {"save_checkpoint": True, "max_position_embeddings": 16})
    assert any("longer than the 16 positions" in note for note in report["notes"])
    assert any("from before the test" in note for note in report["notes"])


def test_a_first_loss_far_from_uniform_is_explained(small: Settle, tmp_path: Path) -> None:  # noqa: F811
    made = construct(small(device="cpu"), project=tmp_path)
    made.model.lm_head.weight.data *= 50
    report = run_trial_of(made, TrialOptions(sequence_length=32))
    assert any("should be near ln(vocabulary) = 5.57" in note for note in report["notes"])


@pytest.mark.parametrize(
    ("flags", "options", "said"),
    [
        ({}, {}, "on meta it has no numbers"),
        ({"device": "cpu", "no_init_weights": True}, {}, "unset memory"),
        ({"device": "cpu", "attn_implementation": "flex_attention"}, {}, "no backward pass on the CPU"),
        ({"device": "cpu"}, {"dataset_config": "x"}, "add that option"),
        ({"device": "cpu"}, {"dataset_project": "nowhere"}, "no built-in project"),
    ],
)
def test_what_cannot_run_is_refused(
    small: Settle,  # noqa: F811
    flags: dict[str, Any],
    options: dict[str, Any],
    said: str,
) -> None:
    with pytest.raises(ForgatherError, match=said):
        check_trial(small(**flags), TrialOptions(**options))


@pytest.mark.slow
def test_the_loss_falls_on_real_text(small: Settle, tmp_path: Path) -> None:  # noqa: F811
    flags = {"hidden_size": 128, "intermediate_size": 256}
    options: dict[str, Any] = {"steps": 20, "lr": 0.3, "sequence_length": 128, "packed": True}
    steps = trial(small, tmp_path, flags, dataset_project="stdlib", **options)["steps"]
    losses = [step["loss"] for step in steps]
    assert sum(losses[-5:]) / 5 < sum(losses[:5]) / 5 - 0.2
