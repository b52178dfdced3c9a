"""Results: when a verification is ok, reports that a caller may change, and the project of a resolved model."""

from __future__ import annotations

import importlib
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import forgather as fg
from forgather_core.filesystem.printable import to_json
from tests.support.settings import SMALLEST


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> fg.ResolvedModel:
    return fg.resolve("llama", **SMALLEST, output_dir=tmp_path_factory.mktemp("small") / "small", device="cpu")


@pytest.fixture(scope="module")
def directory(small: fg.ResolvedModel) -> Path:
    return fg.construct(small).directory


def test_a_verification_is_ok_if_all_requested_checks_ran_and_passed(directory: Path) -> None:
    one = fg.verify(directory, checks="causality")
    assert (one.ok, one.complete, one.to_dict()["complete"], one.notes) == (True, True, True, ())
    some = fg.verify(directory, checks=["causality", "sliding-window"])
    assert (some.ok, some.passed, some.skipped) == (True, ("causality",), ("sliding-window",))


def test_a_verification_without_a_check_that_applies_is_not_ok(directory: Path) -> None:
    none = fg.verify(directory, checks="sliding-window")
    assert (none.ok, none.complete) == (False, True)


def test_an_interrupted_verification_is_not_ok(small: fg.ResolvedModel, directory: Path) -> None:
    kept: list[fg.Verification] = []

    def stop(name: str) -> None:
        if name == "padding":
            raise KeyboardInterrupt

    for model in (small, directory):
        with pytest.raises(KeyboardInterrupt):
            fg.verify(model, checks="causality,padding", progress=fg.Progress(item=stop, partial=kept.append))
    for partial in kept:
        assert (partial.passed, partial.failed, partial.complete, partial.ok) == (("causality",), (), False, False)
        assert "incomplete" in repr(partial)
        assert "incomplete" in partial._repr_html_()


def test_checks_that_cannot_be_loaded_make_a_verification_incomplete(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from forgather_core.checks import CHECKS

    def checks(*, on_broken: Any) -> list[Any]:
        on_broken("the checks of the plugin 'x' are not available: broken")
        return [check for check in CHECKS if check.name in ("causality", "padding")]

    module = importlib.import_module("forgather_core.checks.choose")  # the package has a function of this name
    monkeypatch.setattr(module, "known_checks", checks)
    noted: list[str] = []
    every = fg.verify(directory, progress=fg.Progress(note=noted.append))
    assert (every.passed, every.complete, every.ok) == (("causality", "padding"), False, False)
    assert list(every.notes) == noted == ["the checks of the plugin 'x' are not available: broken"]
    named = fg.verify(directory, checks="causality")
    assert (named.complete, named.ok, named.notes) == (True, True, ())


def spoilt(value: Any) -> Iterator[None]:
    """Change everything in plain data."""
    if isinstance(value, dict):
        for item in value.values():
            yield from spoilt(item)
        value.clear()
    elif isinstance(value, list):
        for item in value:
            yield from spoilt(item)
        value.clear()
    else:
        assert value is None or isinstance(value, (str, int, float, bool)), f"{value!r} is not plain data"
    yield


def test_reports_are_independent_plain_data(small: fg.ResolvedModel, directory: Path) -> None:
    made = fg.construct(small)
    fg.save_checkpoint(directory.parent / "saved", made.model)
    results = [
        made,
        small,
        fg.resolve("llama", rope_parameters={"rope_type": "linear", "factor": 2.0, "rope_theta": 10000.0}),
        fg.show("llama", **SMALLEST, init=True),
        fg.test(small, steps=1, batch_size=1, sequence_length=16),
        fg.verify(directory, checks="causality"),
        fg.estimate(small, batch_size=1, sequence_length=16),
        fg.compare(small, "qwen3/4M", batch_size=1, sequence_length=16),
        fg.inspect_checkpoint(directory.parent / "saved"),
        fg.list_models(),
        fg.list_plugins(),
        fg.list_checks(),
        fg.list_datasets(),
    ]
    for result in results:
        before = to_json(result.to_dict())
        for _ in spoilt(result.to_dict()):
            pass
        assert to_json(result.to_dict()) == before, result
        assert json.loads(before)


@pytest.mark.parametrize("make", [fg.list_models, fg.list_plugins, fg.list_checks, fg.list_datasets])
def test_a_listing_iterates_over_its_names(make: Callable[[], Any]) -> None:
    found = make()
    assert tuple(found) == found.names
    assert len(found) == len(found.names) > 0


def test_a_listing_without_names_is_true_as_every_result() -> None:
    assert not fg.ModelList({"definitions": [], "configurations": []}).names
    assert fg.ModelList({"definitions": [], "configurations": []})


def test_properties_do_not_expose_the_report(small: fg.ResolvedModel) -> None:
    comparison = fg.compare(small, "qwen3/4M", batch_size=1, sequence_length=16)
    comparison.differences["hidden_size"].append(3)  # type: ignore[attr-defined]
    assert comparison.differences["hidden_size"] == [32, 256]
    estimate = fg.estimate(small, batch_size=1, sequence_length=16)
    estimate.devices[0].clear()  # type: ignore[attr-defined]
    assert estimate.devices[0]


def test_a_resolved_model_keeps_its_project(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("extends: llama/4M\n" + "".join(f"{k}: {v}\n" for k, v in SMALLEST.items()))
    mine = fg.resolve("mine", project=tmp_path)
    assert mine.project == tmp_path
    assert mine.target() == tmp_path / "output_models" / "mine"
    assert mine.to_dict()["directory"] == str(mine.target())
    assert fg.construct(mine).directory == mine.target()
    assert fg.verify(mine, checks="causality").to_dict()["directory"] == str(mine.target())
    assert fg.show(mine).to_dict()["directory"] == str(mine.target())
    (tmp_path / "other").mkdir()
    assert fg.construct(mine, project=tmp_path / "other").directory == tmp_path / "other" / "output_models" / "mine"


@pytest.mark.parametrize(
    "call",
    [
        fg.list_models,
        lambda project: fg.resolve("llama", project=project),
        lambda project: fg.construct("llama", project=project),
        lambda project: fg.compare("llama", "qwen3", project=project),
        lambda project: fg.list_checks("llama", project=project),
    ],
)
def test_a_missing_project_is_refused(tmp_path: Path, call: Any) -> None:
    with pytest.raises(fg.ForgatherError, match=r"project: the directory '.*nowhere' does not exist: choose another"):
        call(tmp_path / "nowhere")
    (tmp_path / "file").touch()
    with pytest.raises(fg.ForgatherError, match=r"project: '.*file' is a file: choose another"):
        call(str(tmp_path / "file"))
    assert not (tmp_path / "nowhere").exists()


def test_the_report_of_a_construction_is_that_of_its_time(tmp_path: Path) -> None:
    def construct(name: str) -> fg.Construction:
        return fg.construct("llama", **SMALLEST, model_name="m", output_dir=tmp_path / name, device="cpu")

    expected, made = construct("a"), construct("b")
    shutil.rmtree(tmp_path / "b")
    made.model.config.num_hidden_layers = 9
    made.model.to(torch.bfloat16)
    del made.model.lm_head  # type: ignore[operator]
    assert made.parameters == expected.parameters
    text = to_json(expected.to_dict())
    assert expected.to_dict()["memory"]["peak"] > 0
    assert to_json(made.to_dict()) == text.replace(str(tmp_path / "a"), str(tmp_path / "b"))


def test_reading_a_report_keeps_the_random_state(tmp_path: Path) -> None:
    made = fg.construct("llama", **SMALLEST, output_dir=tmp_path / "m", device="cpu")
    before = torch.get_rng_state()
    made.to_dict()
    assert torch.equal(torch.get_rng_state(), before)
