"""A check passes only if it measures a finite error; refusals and empty loops are reported as such."""

from __future__ import annotations

import math
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from forgather_core.checks import (
    CHECKS,
    FAILED,
    PASSED,
    SKIPPED,
    Check,
    Measured,
    ModelUnderTest,
    check,
    expect,
    verify,
)
from forgather_core.checks.causality import causality
from forgather_core.checks.shared.compared_gradients import gradient_error
from forgather_core.commands.construct import construct
from forgather_core.definitions.registry import Registry
from forgather_core.model.difference import relative_difference
from forgather_core.settings.layers import find_configuration
from forgather_core.settings.resolve import resolve

BY_NAME = {check.name: check for check in CHECKS}
SMALL = {"hidden_size": 32, "num_hidden_layers": 2, "intermediate_size": 48, "tokenizer": "bytes"}
REFUSES = """    def unsupported_attention(self):
        return {"eager": "it is too slow", "sdpa": "it has no sinks"}

    base_model_tp_plan"""


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    project = tmp_path_factory.mktemp("project")
    return construct(resolve(find_configuration("llama", Registry(), project), SMALL), project=project).directory.path


def edited(directory: Path, place: Path, file: str, old: str, new: str) -> Path:
    """Return a copy of a model directory with other text in one file."""
    copy = shutil.copytree(directory, place / "edited")
    text = (copy / file).read_text()
    assert old in text
    (copy / file).write_text(text.replace(old, new, 1))
    return copy


@pytest.fixture(scope="module")
def flex_only(llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that refuses eager and sdpa."""
    return edited(llama, tmp_path_factory.mktemp("flex"), "configuration_llama.py", "    base_model_tp_plan", REFUSES)


def row_of(directory: Path, one: Check) -> dict[str, Any]:
    report = verify(directory, [one])
    (row,) = report["checks"]
    assert report["passed"] + report["failed"] + report["skipped"] == 1
    return dict(row)


@check("empty", cause="nothing")
def yields_nothing(subject: ModelUnderTest) -> Iterator[Measured]:
    """Loop over an empty list."""
    for what in ():
        yield expect(what, True)


@check("no-generator", cause="nothing")
def returns_nothing(subject: ModelUnderTest) -> Iterator[Measured]:
    """Yield nothing, since there is no yield."""
    return None  # type: ignore[return-value]


@pytest.mark.regression("no-measurement")
def test_a_check_that_yields_nothing_does_not_pass(llama: Path) -> None:
    row = row_of(llama, yields_nothing)
    assert (row["result"], row["measured"], row["reason"]) == (SKIPPED, [], "it measured nothing")


def test_a_check_that_returns_nothing_does_not_pass(llama: Path) -> None:
    assert row_of(llama, returns_nothing)["result"] == SKIPPED


@pytest.mark.regression("no-measurement")
@pytest.mark.parametrize("wrong", [True, None, (1, 2), Measured("no number", None)], ids=str)  # type: ignore[arg-type]
def test_yielding_another_type_fails_with_its_name(wrong: Any, llama: Path) -> None:
    @check("wrong", cause="nothing")
    def yields_something_else(subject: ModelUnderTest) -> Iterator[Any]:
        """Yield something else."""
        yield wrong

    row = row_of(llama, yields_something_else)
    assert row["result"] == FAILED
    assert row["measured"] == []
    assert "Measured" in row["reason"] or "NoneType" in row["reason"]


@pytest.mark.regression("no-measurement")
def test_an_error_that_is_not_finite_never_holds() -> None:
    errors, tolerances = (math.nan, math.inf, -math.inf), (0.0, 1.0, math.inf, math.nan)
    held = [(error, t) for error in errors for t in tolerances if Measured("anything", error, t).holds]
    assert held == []


@pytest.mark.regression("no-measurement")
def test_empty_tensors_do_not_agree() -> None:
    empty = torch.zeros(2, 0, 5)
    assert math.isnan(relative_difference(empty, empty))
    assert math.isnan(gradient_error({}, {})[0])


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_values_that_are_not_finite_do_not_agree(value: float) -> None:
    good, bad = torch.ones(4), torch.tensor([1.0, value, 1.0, 1.0])
    assert not any(
        Measured("", relative_difference(*pair), 1e9).holds for pair in ((bad, good), (good, bad), (bad, bad))
    )
    pairs = (({"w": bad}, {"w": good}), ({"w": good}, {"w": bad}), ({"w": bad}, {"w": bad}))
    assert not any(Measured("", gradient_error(*pair)[0], 1e9).holds for pair in pairs)


@pytest.mark.regression("causality-refused")
def test_causality_does_not_apply_if_eager_and_sdpa_are_refused(flex_only: Path) -> None:
    row = row_of(flex_only, causality)
    assert row["result"] == SKIPPED
    assert "eager: it is too slow" in row["reason"] and "sdpa: it has no sinks" in row["reason"]


LOOPS = (
    "packing-isolation",
    "padding",
    "batch-invariance",
    "positions",
    "kv-cache",
    "generation",
    "gradients",
    "gradient-checkpointing",
)


@pytest.mark.regression("causality-refused")
@pytest.mark.parametrize("name", LOOPS)
def test_no_check_passes_without_an_implementation(name: str, flex_only: Path) -> None:
    row = row_of(flex_only, BY_NAME[name])
    assert (row["result"], row["measured"]) == (SKIPPED, [])
    assert "refuses eager and sdpa" in row["reason"]


@pytest.mark.parametrize(
    "name", ["inputs-embeds", "hidden-states", "loss", "signal-propagation", "same-seed", "no-dead-options"]
)
def test_limits_of_flex_attention_are_no_failure(name: str, flex_only: Path) -> None:
    row = row_of(flex_only, BY_NAME[name])
    assert row["result"] == SKIPPED
    assert "refuse" in row["reason"]


def test_a_model_that_is_not_implemented_fails(flex_only: Path) -> None:
    @check("unwritten", cause="nothing")
    def raises(subject: ModelUnderTest) -> Iterator[Measured]:
        """Raise NotImplementedError."""
        yield expect("something", True)
        raise NotImplementedError("the cache is not written yet")

    row = row_of(flex_only, raises)
    assert row["result"] == FAILED and "not written yet" in row["reason"]


@pytest.mark.parametrize("name", ["initial-weights", "buffers", "precision"])
def test_flex_attention_is_measured_if_it_can_compute_the_check(name: str, flex_only: Path) -> None:
    row = row_of(flex_only, BY_NAME[name])
    assert row["result"] == PASSED, row["reason"]
    assert row["measured"]


def test_implementations_that_transformers_refuses_are_left_out(llama: Path, tmp_path: Path) -> None:
    old = "    config_class = LlamaConfig\n    decoder_class"
    eager_only = edited(llama, tmp_path, "modeling_llama.py", old, "    _supports_sdpa = False\n" + old)
    row = row_of(eager_only, causality)
    assert row["result"] == PASSED, row["reason"]
    assert {one["what"].partition(",")[0] for one in row["measured"]} == {"eager"}


def test_a_model_that_cannot_be_built_fails(llama: Path, tmp_path: Path) -> None:
    old = "        super().__init__(config)\n"
    broken = edited(llama, tmp_path, "modeling_llama.py", old, "        raise ValueError('a size that does not fit')\n")
    row = row_of(broken, causality)
    assert row["result"] == FAILED
    assert "a size that does not fit" in row["reason"]


def test_nan_logits_fail_causality(llama: Path, tmp_path: Path) -> None:
    old = "        hidden_states = outputs.last_hidden_state\n"
    nan = edited(
        llama, tmp_path, "language_model.py", old, old + "        hidden_states = hidden_states * float('nan')\n"
    )
    row = row_of(nan, causality)
    assert row["result"] == FAILED
    assert not any(one["holds"] for one in row["measured"])
