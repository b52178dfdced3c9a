"""Every old name that plugins may use resolves to the new one, with a DeprecationWarning that names it."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from typing import Any

import pytest
from transformers import LlamaConfig

from forgather_core.checks import CHECKS, Check, Measured, ModelUnderTest, check, choose, expect
from forgather_core.checks.choose import OLD_CHECK_NAMES
from forgather_core.reference import Reference

CHECK = "forgather_core.definitions.check"
REFERENCE, SUBJECT = "forgather_core.reference", "forgather_core.checks.shared.model_under_test"
PARTS = "forgather_core.parts"
RENAMED = [
    ("forgather_core.errors", "TrialError", "forgather_core.errors", "TrainingCheckError"),
    ("forgather_core.checks", "Subject", "forgather_core.checks", "ModelUnderTest"),
    ("forgather_core.checks", "must", "forgather_core.checks", "expect"),
    (CHECK, "must", CHECK, "expect"),
    (CHECK, "told", CHECK, "failure_text"),
    ("forgather_core.checks.check", "Check", CHECK, "Check"),
    ("forgather_core.checks.check", "DoesNotApply", CHECK, "DoesNotApply"),
    ("forgather_core.checks.check", "Measured", CHECK, "Measured"),
    ("forgather_core.checks.check", "check", CHECK, "check"),
    ("forgather_core.checks.check", "must", CHECK, "expect"),
    ("forgather_core.checks.check", "told", CHECK, "failure_text"),
    ("forgather_core.checks.subject", "Subject", SUBJECT, "ModelUnderTest"),
    ("forgather_core.checks.subject", "strengthen", SUBJECT, "randomize_weights"),
    ("forgather_core.checks.subject", "LENGTH", SUBJECT, "LENGTH"),
    ("forgather_core.definition", "ModelDefinition", "forgather_core.definitions.definition", "ModelDefinition"),
    ("forgather_core.hookspecs", "hookimpl", "forgather_core.definitions.hookspecs", "hookimpl"),
    (f"{PARTS}.caches", "the_cache", f"{PARTS}.caches", "resolve_cache"),
    (f"{PARTS}.linear_cross_entropy", "MOST_PARTS", f"{PARTS}.linear_cross_entropy", "MAX_CHUNKS"),
    (f"{PARTS}.rope", "RopeNumbers", f"{PARTS}.rope", "RopeConfig"),
    (f"{PARTS}.rope", "SCALED_FROM_A_LENGTH", f"{PARTS}.rope", "USES_ORIGINAL_LENGTH"),
    (f"{PARTS}.table_init", "initialise_module", f"{PARTS}.table_init", "initialize_module"),
    (f"{PARTS}.weight_pieces", "FEW", f"{PARTS}.weight_pieces", "MIN_THREADED"),
    (REFERENCE, "Spread", REFERENCE, "InitStd"),
    (REFERENCE, "gated", REFERENCE, "glu"),
    (REFERENCE, "llama_spreads", REFERENCE, "llama_init_std"),
    (REFERENCE, "rotated", REFERENCE, "apply_rope"),
    (REFERENCE, "sees", REFERENCE, "visible_keys"),
    (REFERENCE, "uniform_by_inputs", REFERENCE, "fan_in_uniform_std"),
    (REFERENCE, "without_tails", REFERENCE, "truncated_normal_std"),
]
MEMBERS = [("initial", "fresh_model"), ("initial_of", "fresh_model_of"), ("model", "randomized_model")]
VALUES = [("is_ours", "made_by_forgather"), ("limits", "text_config"), ("place", "workdir")]


@pytest.mark.parametrize(("module", "old", "new_module", "new"), RENAMED)
def test_module_names(module: str, old: str, new_module: str, new: str) -> None:
    with pytest.warns(DeprecationWarning, match=rf"^{module}\.{old} is deprecated: use {new_module}\.{new}$") as caught:
        found = getattr(importlib.import_module(module), old)
    assert found is getattr(importlib.import_module(new_module), new)
    assert caught[0].filename == __file__


@pytest.mark.parametrize("module", ["forgather_core.checks", CHECK, "forgather_core.checks.subject", REFERENCE])
def test_unknown_names_are_attribute_errors(module: str) -> None:
    with pytest.raises(AttributeError, match="no_such_name"):
        vars(importlib.import_module(module))["__getattr__"]("no_such_name")


def test_old_module_paths_do_not_shadow_the_function() -> None:
    importlib.import_module("forgather_core.checks.check")
    assert importlib.import_module("forgather_core.checks").check is check


@pytest.fixture(scope="module")
def subject(tmp_path_factory: pytest.TempPathFactory) -> ModelUnderTest:
    path = tmp_path_factory.mktemp("deprecated")
    config = LlamaConfig(vocab_size=300, hidden_size=32, intermediate_size=48, num_hidden_layers=1)
    config.save_pretrained(path / "model")
    (path / "copy").mkdir()
    with pytest.warns(DeprecationWarning, match=r"^ModelUnderTest\(place=\.\.\.\) is deprecated: .*workdir=") as caught:
        made = ModelUnderTest(path / "model", place=path / "copy")  # type: ignore[call-arg]
    assert caught[0].filename == __file__
    return made


@pytest.mark.parametrize(("old", "new"), [*MEMBERS, *VALUES])
def test_members_of_the_model_under_test(subject: ModelUnderTest, old: str, new: str) -> None:
    with pytest.warns(DeprecationWarning, match=rf"^ModelUnderTest\.{old} is deprecated: use ModelUnderTest\.{new}$"):
        found = getattr(subject, old)
    assert found == getattr(subject, new)


def test_reference() -> None:
    def stated(config: Any) -> dict[str, float]:
        return {"": 1.0}

    with pytest.warns(DeprecationWarning, match=r"^Reference\(spreads=\.\.\.\) is deprecated: .*init_std="):
        reference = Reference(spreads=stated)  # type: ignore[call-arg]
    assert reference == Reference(init_std=stated)
    with pytest.warns(DeprecationWarning, match=r"^Reference\.spreads is deprecated: use Reference\.init_std$"):
        assert reference.spreads is stated  # type: ignore[attr-defined]


def test_old_check_names_are_not_present_ones() -> None:
    present = {check.name for check in CHECKS}
    assert present >= set(OLD_CHECK_NAMES.values())
    assert not present & OLD_CHECK_NAMES.keys()


@pytest.mark.parametrize(("old", "new"), OLD_CHECK_NAMES.items())
def test_check_names(old: str, new: str) -> None:
    with pytest.warns(DeprecationWarning, match=f"^the check name '{old}' is now '{new}'$"):
        (found,) = choose(CHECKS, [old])
    assert found.name == new


@check("rows", cause="nothing")
def of_a_plugin(subject: ModelUnderTest) -> Iterator[Measured]:
    """A plugin has this check."""
    yield expect("always", True)


def test_a_check_of_a_plugin_may_have_an_old_name(recwarn: pytest.WarningsRecorder) -> None:
    chosen: list[Check] = choose([*CHECKS, of_a_plugin], ["rows"])
    assert chosen == [of_a_plugin]
    assert not recwarn.list
