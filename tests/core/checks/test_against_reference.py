"""A model is held to the reference of its definition: what is said where that is not one, or not whole."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from forgather_single_head import reference as single_head
from torch import Tensor

from forgather_core.checks import FAILED, PASSED, SKIPPED, Check, ModelUnderTest, try_check
from forgather_core.checks.against_reference import _as_told, equations, spreads
from forgather_core.commands.construct import construct
from forgather_core.definitions.registry import registry
from forgather_core.reference import Reference, Weights
from forgather_core.settings.layers import find_configuration
from forgather_core.settings.resolve import resolve


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("reference") / "single_head"
    settings = resolve(find_configuration("single_head", registry(), Path()), {"output_dir": path})
    return construct(settings).directory.path


def tried(directory: Path, place: Path, check: Check, reference: str | None) -> dict[str, Any]:
    subject = ModelUnderTest(directory, place)
    assert subject.definition is not None
    subject.__dict__["definition"] = dataclasses.replace(subject.definition, reference=reference)
    return try_check(check, subject)


def broken(row: dict[str, Any]) -> list[str]:
    return [measured["what"] for measured in row["measured"] if not measured["holds"]]


def zeros(weights: Weights, ids: Tensor, config: Any) -> Tensor:
    """Depends on one of the weights only."""
    return single_head.REFERENCE.logits(weights, ids, config).detach() + 0 * weights["lm_head.weight"].sum()  # type: ignore[misc]


def without_slopes(config: Any) -> dict[str, Any]:
    return {pattern: spread for pattern, spread in single_head.spreads(config).items() if pattern != "slopes"}


def of_two_slopes(config: Any) -> dict[str, Any]:
    return single_head.spreads(config) | {"slopes": [0.5, 0.5]}


def twice_as_wide(config: Any) -> dict[str, Any]:
    return single_head.spreads(config) | {"embed_tokens": 2 / config.hidden_size**0.5}


def a_function_for_a_vector(config: Any) -> dict[str, Any]:
    return single_head.spreads(config) | {"slopes": lambda rows, columns: 1 / columns}


def slopes_of_zero(config: Any) -> dict[str, Any]:
    return single_head.spreads(config) | {"slopes": 0.0}


NOTHING = Reference()
FUNCTION, ZERO = Reference(spreads=a_function_for_a_vector), Reference(spreads=slopes_of_zero)
UNUSED = Reference(logits=zeros)
NO_SLOPES = Reference(spreads=without_slopes)
TWO_SLOPES = Reference(spreads=of_two_slopes)
WIDE = Reference(spreads=twice_as_wide)


def test_a_right_model_passes_beside_the_definition_that_its_manifest_names(directory: Path, tmp_path: Path) -> None:
    subject = ModelUnderTest(directory, tmp_path)
    assert [try_check(check, subject)["result"] for check in (equations, spreads)] == [PASSED] * 2


@pytest.mark.parametrize("check", [equations, spreads], ids=["equations", "spreads"])
@pytest.mark.parametrize(
    ("reference", "reason"),
    [(None, "the definition 'single_head' names no reference"), (f"{__name__}:NOTHING", "the definition's reference")],
    ids=["none", "empty"],
)
def test_what_is_not_promised_does_not_apply(
    directory: Path, tmp_path: Path, check: Check, reference: str | None, reason: str
) -> None:
    row = tried(directory, tmp_path, check, reference)
    assert row["result"] == SKIPPED
    assert row["reason"].startswith(reason)


def test_a_definition_that_is_not_installed_promises_nothing(directory: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(directory, other)
    manifest = json.loads((other / "forgather.json").read_text())
    manifest["definition"]["name"] = "not_installed"
    (other / "forgather.json").write_text(json.dumps(manifest))
    (tmp_path / "place").mkdir()
    row = try_check(equations, ModelUnderTest(other, tmp_path / "place"))
    assert (row["result"], row["reason"]) == (SKIPPED, "the directory is of no definition that is installed here")


def test_a_reference_that_is_not_there_fails(directory: Path, tmp_path: Path) -> None:
    row = tried(directory, tmp_path, equations, "forgather_single_head.reference:OTHER")
    assert row["result"] == FAILED
    assert "has no 'OTHER'" in row["reason"]


def test_a_parameter_that_the_reference_does_not_use_is_named(directory: Path, tmp_path: Path) -> None:
    row = tried(directory, tmp_path, equations, f"{__name__}:UNUSED")
    assert row["result"] == FAILED
    (first, *_) = [measured for measured in row["measured"] if not measured["holds"]]
    assert first["what"].endswith("the reference uses every parameter")
    assert first["where"] == "model.layers.0.self_attn.alibi.slopes"  # the embedding is the head


@pytest.mark.parametrize(
    ("reference", "told", "where"),
    [
        ("NO_SLOPES", "the reference tells it", "alibi.slopes"),
        ("TWO_SLOPES", "0.5, 0.5", "alibi.slopes"),
        ("FUNCTION", "a function of rows and columns for a vector", "alibi.slopes"),
        ("ZERO", "0", "alibi.slopes"),
        ("WIDE", "std", "embed_tokens.weight"),
    ],
)
def test_initial_weights_that_are_others(
    directory: Path, tmp_path: Path, reference: str, told: str, where: str
) -> None:
    row = tried(directory, tmp_path, spreads, f"{__name__}:{reference}")
    assert row["result"] == FAILED
    found = broken(row)
    assert found
    assert all(told in what.partition(":")[2] for what in found)
    names = {measured["what"].partition(":")[0] for measured in row["measured"]}
    assert {what.partition(":")[0] for what in found} == {name for name in names if name.endswith(where)}


def told(spread: Any, values: Tensor, padding: int | None = None) -> bool:
    return _as_told("w", values, spread, padding).holds


def test_told_values_are_equal_but_for_their_rounding() -> None:
    assert told([1e-6], torch.full((9,), 1e-6))
    assert not told([1e-6], torch.zeros(9))
    assert told(0.0, torch.zeros(9, 2))
    assert not told(0.0, torch.full((9, 2), 1e-20))
    assert told([0.1, 0.2], torch.tensor([0.1, 0.2]))
    assert not told([0.1, 0.2], torch.tensor([0.2, 0.1]))


def test_a_spread_is_that_of_all_but_the_padding() -> None:
    values = torch.randn(64, 64, generator=torch.Generator().manual_seed(0))
    assert told(1.0, values)
    assert told(lambda rows, columns: rows / columns, values.expand(3, 64, 64))
    values[5] = 0
    assert told(1.0, values, 5)
    values[32:] = 0
    assert not told(1.0, values, 5)


def test_what_is_no_reference_is_said(directory: Path, tmp_path: Path) -> None:
    row = tried(directory, tmp_path, equations, f"{__name__}:zeros")
    assert row["result"] == FAILED
    assert "which is no Reference" in row["reason"]


def test_tied_weights_are_one_in_the_reference_too(tmp_path: Path) -> None:
    flags = {"output_dir": tmp_path / "tied", "tie_word_embeddings": True}
    settings = resolve(find_configuration("deepone", registry(), Path()), flags)
    path = construct(settings).directory.path
    (tmp_path / "place").mkdir()
    subject = ModelUnderTest(path, tmp_path / "place", settings=settings)
    model = subject.model()
    assert torch.equal(model.lm_head.weight, model.model.embed_tokens.weight)
    assert [try_check(check, subject)["result"] for check in (equations, spreads)] == [PASSED] * 2
