"""Checks that compare a model with its definition's reference, and their messages for wrong references."""

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
from forgather_core.checks.init_std import _compare_with_stated, init_std
from forgather_core.checks.reference_parity import reference_parity
from forgather_core.commands.construct import construct
from forgather_core.definitions.registry import registry
from forgather_core.reference import Reference, Weights
from forgather_core.settings.layers import find_configuration
from forgather_core.settings.resolve import resolve


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("reference") / "single_head"
    resolved = resolve(find_configuration("single_head", registry(), Path()), {"output_dir": path})
    return construct(resolved).directory.path


def tried(directory: Path, place: Path, check: Check, reference: str | None) -> dict[str, Any]:
    subject = ModelUnderTest(directory, place)
    assert subject.definition is not None
    subject.__dict__["definition"] = dataclasses.replace(subject.definition, reference=reference)
    return try_check(check, subject)


def broken(row: dict[str, Any]) -> list[str]:
    return [measured["what"] for measured in row["measured"] if not measured["holds"]]


def zeros(weights: Weights, ids: Tensor, config: Any) -> Tensor:
    """Return logits whose gradient depends on one weight only."""
    return single_head.REFERENCE.logits(weights, ids, config).detach() + 0 * weights["lm_head.weight"].sum()  # type: ignore[misc]


def without_slopes(config: Any) -> dict[str, Any]:
    return {pattern: std for pattern, std in single_head.init_std(config).items() if pattern != "slopes"}


def of_two_slopes(config: Any) -> dict[str, Any]:
    return single_head.init_std(config) | {"slopes": [0.5, 0.5]}


def twice_as_wide(config: Any) -> dict[str, Any]:
    return single_head.init_std(config) | {"embed_tokens": 2 / config.hidden_size**0.5}


def a_function_for_a_vector(config: Any) -> dict[str, Any]:
    return single_head.init_std(config) | {"slopes": lambda rows, columns: 1 / columns}


def slopes_of_zero(config: Any) -> dict[str, Any]:
    return single_head.init_std(config) | {"slopes": 0.0}


NOTHING = Reference()
FUNCTION, ZERO = Reference(init_std=a_function_for_a_vector), Reference(init_std=slopes_of_zero)
UNUSED = Reference(logits=zeros)
NO_SLOPES = Reference(init_std=without_slopes)
TWO_SLOPES = Reference(init_std=of_two_slopes)
WIDE = Reference(init_std=twice_as_wide)


def test_a_correct_model_passes_with_the_definition_in_its_manifest(directory: Path, tmp_path: Path) -> None:
    subject = ModelUnderTest(directory, tmp_path)
    assert [try_check(check, subject)["result"] for check in (reference_parity, init_std)] == [PASSED] * 2


@pytest.mark.parametrize("check", [reference_parity, init_std], ids=["reference-parity", "init-std"])
@pytest.mark.parametrize(
    ("reference", "reason"),
    [(None, "the definition 'single_head' has no reference"), (f"{__name__}:NOTHING", "the definition's reference")],
    ids=["none", "empty"],
)
def test_a_missing_reference_does_not_apply(
    directory: Path, tmp_path: Path, check: Check, reference: str | None, reason: str
) -> None:
    row = tried(directory, tmp_path, check, reference)
    assert row["result"] == SKIPPED
    assert row["reason"].startswith(reason)


def test_a_definition_that_is_not_installed_does_not_apply(directory: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(directory, other)
    manifest = json.loads((other / "forgather.json").read_text())
    manifest["definition"]["name"] = "not_installed"
    (other / "forgather.json").write_text(json.dumps(manifest))
    (tmp_path / "place").mkdir()
    row = try_check(reference_parity, ModelUnderTest(other, tmp_path / "place"))
    assert (row["result"], row["reason"]) == (SKIPPED, "this directory was not made by an installed definition")


def test_a_reference_that_does_not_exist_fails(directory: Path, tmp_path: Path) -> None:
    row = tried(directory, tmp_path, reference_parity, "forgather_single_head.reference:OTHER")
    assert row["result"] == FAILED
    assert "has no 'OTHER'" in row["reason"]


def test_parameters_that_the_reference_does_not_use_are_named(directory: Path, tmp_path: Path) -> None:
    row = tried(directory, tmp_path, reference_parity, f"{__name__}:UNUSED")
    assert row["result"] == FAILED
    (first, *_) = [measured for measured in row["measured"] if not measured["holds"]]
    assert first["what"].endswith("the reference uses every parameter")
    assert first["where"] == "model.layers.0.self_attn.alibi.slopes"  # the embedding is the head


@pytest.mark.parametrize(
    ("reference", "message", "where"),
    [
        ("NO_SLOPES", "the reference states its std", "alibi.slopes"),
        ("TWO_SLOPES", "0.5, 0.5", "alibi.slopes"),
        ("FUNCTION", "the reference states a number for a vector", "alibi.slopes"),
        ("ZERO", "0", "alibi.slopes"),
        ("WIDE", "std", "embed_tokens.weight"),
    ],
)
def test_other_initial_weights_fail(directory: Path, tmp_path: Path, reference: str, message: str, where: str) -> None:
    row = tried(directory, tmp_path, init_std, f"{__name__}:{reference}")
    assert row["result"] == FAILED
    found = broken(row)
    assert found
    assert all(message in what.partition(":")[2] for what in found)
    names = {measured["what"].partition(":")[0] for measured in row["measured"]}
    assert {what.partition(":")[0] for what in found} == {name for name in names if name.endswith(where)}


def agrees(stated: Any, values: Tensor, padding: int | None = None) -> bool:
    return _compare_with_stated("w", values, stated, padding).holds


def test_stated_values_are_equal_up_to_rounding() -> None:
    assert agrees([1e-6], torch.full((9,), 1e-6))
    assert not agrees([1e-6], torch.zeros(9))
    assert agrees(0.0, torch.zeros(9, 2))
    assert not agrees(0.0, torch.full((9, 2), 1e-20))
    assert agrees([0.1, 0.2], torch.tensor([0.1, 0.2]))
    assert not agrees([0.1, 0.2], torch.tensor([0.2, 0.1]))


def test_the_std_leaves_out_the_padding_row() -> None:
    values = torch.randn(64, 64, generator=torch.Generator().manual_seed(0))
    assert agrees(1.0, values)
    assert agrees(lambda rows, columns: rows / columns, values.expand(3, 64, 64))
    values[5] = 0
    assert agrees(1.0, values, 5)
    values[32:] = 0
    assert not agrees(1.0, values, 5)


def test_an_object_that_is_not_a_reference_fails(directory: Path, tmp_path: Path) -> None:
    row = tried(directory, tmp_path, reference_parity, f"{__name__}:zeros")
    assert row["result"] == FAILED
    assert "expected a Reference, got a function" in row["reason"]


def test_tied_weights_are_tied_in_the_reference(tmp_path: Path) -> None:
    flags = {"output_dir": tmp_path / "tied", "tie_word_embeddings": True}
    resolved = resolve(find_configuration("deepone", registry(), Path()), flags)
    path = construct(resolved).directory.path
    (tmp_path / "place").mkdir()
    subject = ModelUnderTest(path, tmp_path / "place", resolved=resolved)
    model = subject.randomized_model()
    assert torch.equal(model.lm_head.weight, model.model.embed_tokens.weight)
    assert [try_check(check, subject)["result"] for check in (reference_parity, init_std)] == [PASSED] * 2
