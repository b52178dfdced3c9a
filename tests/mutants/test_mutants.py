"""Test that every replaced text of the catalogue exists, and that the named check finds the mistake of an entry.

Two mutants of each quick check, and one of each slow check, are planted here; `python -m tests.mutants` plants all, and
runs every check.
"""

from __future__ import annotations

import ast
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from forgather_core.checks import CHECKS, FAILED, PASSED, verify
from forgather_core.checks.shared.scope import Scope

from .apply import UNINFORMATIVE_CHECK, Original, Originals, mutated
from .catalogue import GROUPS, MUTANTS, Mutant

QUICK = {check.name for check in CHECKS if check.quick} - {"call-agreement"}
SAMPLE = [
    pytest.param(mutant, id=mutant.name, marks=() if check.name in QUICK else pytest.mark.slow)
    for check in CHECKS
    if check.name != "other-options"  # tests/core/checks/test_other_options.py plants its mutant
    for mutant in [mutant for mutant in MUTANTS if mutant.check == check.name][: 2 if check.name in QUICK else 1]
]


@pytest.fixture(scope="module")
def originals(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Originals]:
    yield Originals(tmp_path_factory.mktemp("originals"))


def row(path: Path, mutant: Mutant, original: Original) -> dict[str, Any]:
    """Return the row of the check that an entry names from the report on a directory."""
    checks = [check for check in CHECKS if check.name == mutant.check]
    report = verify(path, checks, resolved=original.resolved, scope=Scope(quick=mutant.quick))
    result: dict[str, Any] = report["checks"][0]
    return result


def test_names_are_unique() -> None:
    assert len({mutant.name for mutant in MUTANTS}) == len(MUTANTS)


# These have mistakes of their own: tests/mutants/copies.py, tests/core/checks/test_parallel_agreement.py.
WITH_OWN_MISTAKES = {"other-implementation", "parallel-agreement"}


def test_every_check_can_fail() -> None:
    assert {mutant.check for mutant in MUTANTS} == {check.name for check in CHECKS} - {
        UNINFORMATIVE_CHECK
    } - WITH_OWN_MISTAKES


@pytest.mark.few(20)
@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_the_text_exists_and_its_replacement_parses(mutant: Mutant, originals: Originals) -> None:
    text = (originals.of(mutant).path / mutant.file).read_text(encoding="utf-8")
    changed = mutant.applied(text)
    if mutant.file.endswith(".json"):
        assert json.loads(changed) != json.loads(text)
    else:
        assert ast.dump(ast.parse(changed)) != ast.dump(ast.parse(text))


@pytest.mark.few(8, slow=5)
@pytest.mark.parametrize("mutant", SAMPLE)
def test_the_check_that_the_entry_names_finds_it(mutant: Mutant, originals: Originals, tmp_path: Path) -> None:
    original = originals.of(mutant)
    if mutant.options:  # tests/core/checks tests the definitions without options
        assert row(original.path, mutant, original)["result"] == PASSED
    found = row(mutated(mutant, original, tmp_path), mutant, original)
    assert found["result"] == FAILED, found["measured"]
    # By a measured case, or by the error of the entry: a failure elsewhere in the model proves nothing about the check.
    measured = found["measured"]
    shown = mutant.error in found["reason"] if mutant.error else any(not case["holds"] for case in measured)
    assert shown, found["reason"]


def test_every_check_has_a_mistake_that_call_agreement_does_not_find() -> None:
    found = {mutant.check for mutant in MUTANTS if mutant.beyond_calls}
    assert found == {check.name for check in CHECKS} - {UNINFORMATIVE_CHECK, "call-agreement"} - WITH_OWN_MISTAKES


@pytest.mark.few(0, slow=2)
@pytest.mark.parametrize("mutant", [mutant for mutant in MUTANTS if mutant.beyond_calls], ids=lambda one: one.name)
def test_call_agreement_does_not_find_it_and_the_named_check_does(
    mutant: Mutant, originals: Originals, tmp_path: Path
) -> None:
    original = originals.of(mutant)
    path = mutated(mutant, original, tmp_path)
    assert row(path, mutant, original)["result"] == FAILED
    checks = [check for check in CHECKS if check.name == "call-agreement"]
    (found,) = verify(path, checks, resolved=original.resolved)["checks"]
    assert found["result"] == PASSED, found["reason"]


def test_a_text_that_no_longer_exists_is_shown_beside_the_nearest_passage() -> None:
    mutant = Mutant(
        name="x", definition="llama", file="a.py", old="a = b + 1\nc = a", new="", mistake="", check="causality"
    )
    assert mutant.applied("0\na = b + 1\nc = a\n") == "0\n\n"
    with pytest.raises(ValueError, match=r"mutant 'x': expected its text 1 times in a.py, found it 0 times") as error:
        mutant.applied("first\na = b + 2\nc = a\nlast\n")
    assert str(error.value).splitlines()[1:] == [
        "--- catalogue",
        "+++ a.py:2",
        "@@ -1 +1 @@",
        "-a = b + 1",
        "+a = b + 2",
    ]
    with pytest.raises(ValueError, match=r"expected its text 1 times in a.py, found it 2 times$"):
        mutant.applied(2 * "a = b + 1\nc = a\n")


def test_the_page_lists_every_mutant() -> None:
    page = (Path(__file__).parent.parent.parent / "docs" / "mutants.md").read_text(encoding="utf-8")
    for group, mutants in GROUPS.items():
        for mutant in mutants:
            mistake = mutant.mistake.replace("|", "\\|")
            assert f"| {group} | {mutant.name} | {mutant.definition} | {mistake} | {mutant.check} |\n" in page
    assert f"has {len(MUTANTS)} mistakes" in page
