"""Tests for plugins: every check of `verify` as a separate test, and the parameter counts of presets.

    from forgather_core.testing import DefinitionTests

    class TestMine(DefinitionTests):
        definition = "mine"

Requires pytest, which Forgather itself does not.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import pytest

from .checks import EXPECTED, SKIPPED, Check, ModelUnderTest, choose, try_check
from .checks.call_agreement import call_agreement
from .checks.covering.array import all_levels, covering_array
from .checks.covering.calls import Calls
from .checks.covering.factors import Case, case_id
from .checks.covering.usual import usual_cases
from .checks.known import known_checks
from .definitions.check import shown_failures
from .definitions.registry import registry
from .errors import ForgatherError
from .runtime.quiet import quiet_transformers
from .settings.layers import find_configuration
from .settings.resolve import resolve
from .settings.resolved_model import ResolvedModel

_MAX_FAILURES = 8  # failed cases of a check that the message lists


class DefinitionTests:
    """Base class for tests of a definition: each check is a test, `test_check[causality]`.

    The check `call-agreement` has a test for each case of a quick run, `test_call[padding=left,cache=static]`. Levels
    that do not apply to the model are replaced by the plain ones.

    Name the subclass `Test...`. The model directory is written once for each class, and each check runs on a small copy
    with the same features.
    """

    definition: ClassVar[str]  # as for -t: "mine", "mine/4M"
    checks: ClassVar[Sequence[str] | None] = None  # names; None runs all, including those of plugins
    options: ClassVar[Mapping[str, Any]] = {}  # options that override those of the preset
    full: ClassVar[bool] = False  # check the full model instead of a small copy
    seed: ClassVar[int] = 0  # seed of weights and texts

    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        """Parametrize `test_check` with the checks, and `test_call` with the cases of call-agreement."""
        if "forgather_check" in metafunc.fixturenames or "forgather_case" in metafunc.fixturenames:
            if not hasattr(self, "definition"):
                hint = "set it to a definition or a preset, such as 'mine/4M'"
                pytest.fail(f"{type(self).__name__} requires `definition`: {hint}", pytrace=False)
            try:
                chosen = choose(known_checks(), self.checks or ())
            except ForgatherError as error:
                pytest.fail(f"{type(self).__name__}: {error}", pytrace=False)
            if "forgather_case" in metafunc.fixturenames:
                cases = _quick_cases(self.seed) if call_agreement in chosen else ()
                metafunc.parametrize("forgather_case", cases, ids=map(case_id, cases))
                return
            chosen = [check for check in chosen if check is not call_agreement]
            metafunc.parametrize("forgather_check", chosen, ids=[check.name for check in chosen])

    @pytest.fixture(scope="class")
    @classmethod
    def forgather_subject(
        cls, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
    ) -> ModelUnderTest:
        """The model under test, made from the definition."""
        tests: type[DefinitionTests] = request.cls
        workdir = tmp_path_factory.mktemp(tests.__name__)
        try:
            resolved = _resolved(tests.definition, tests.options)
            directory = _write_directory(resolved, workdir / "model")
        except ForgatherError as error:
            pytest.fail(f"cannot write a model directory of '{tests.definition}': {error}", pytrace=False)
        (workdir / "copy").mkdir()
        return ModelUnderTest(directory, workdir / "copy", resolved=resolved, full=tests.full, seed=tests.seed)

    def test_check(self, forgather_check: Check, forgather_subject: ModelUnderTest) -> None:
        """Run one check; skip it if it does not apply."""
        row = try_check(forgather_check, forgather_subject)
        if row["result"] == SKIPPED:
            pytest.skip(row["reason"])
        if row["result"] == EXPECTED:
            pytest.xfail(row["reason"])
        if (text := failure(row)) is not None:
            pytest.fail(text, pytrace=False)

    @pytest.fixture(scope="class")
    @classmethod
    def forgather_calls(cls, forgather_subject: ModelUnderTest) -> Iterator[Calls]:
        """Provide the runner of the cases of call-agreement."""
        with quiet_transformers(), Calls(forgather_subject) as calls:
            yield calls

    def test_call(self, forgather_case: Case, forgather_calls: Calls) -> None:
        """Run one case of call-agreement; skip it if its levels do not apply to the model."""
        case = forgather_calls.applicable(forgather_case)
        if case is None:
            pytest.skip("its levels do not apply to the model")
        for found in forgather_calls.failures([case]):
            expected = forgather_calls.expected(found)
            if expected is not None:
                pytest.xfail(expected)
            where = f", at {found.worst.where}" if found.worst.where else ""
            pytest.fail(f"{found.text}{where}", pytrace=False)


@functools.cache
def _quick_cases(seed: int) -> tuple[Case, ...]:
    """Return the cases of a quick run for any model."""
    levels = all_levels(quick=True)
    return covering_array(levels, seed=seed).cases + usual_cases(levels)


def failure(row: Mapping[str, Any]) -> str | None:
    """Return the message of a failed check: its promise, each failed case, and the usual cause; None if it passed.

    Args:
        row: The result of `checks.try_check`.
    """
    if row["cause"] is None:
        return None
    failures, more = shown_failures(row["measured"], _MAX_FAILURES)
    lines = [f"{row['name']}: {row['promise']}", *(f"  {failure}" for failure in failures)]
    if more:
        lines.append(f"  and {more} more of {len(row['measured'])}")
    if row["reason"]:
        lines.append(f"  {row['reason']}")
    return "\n".join([*lines, f"usual cause: {row['cause']}"])


def presets(definition: str) -> list[str]:
    """Return every preset of a definition, as for `-t`: "mine/4M"."""
    return [f"{definition}/{preset}" for preset in registry().definition(definition).preset_names()]


def stated_parameters(template: str) -> int | None:
    """Return the `parameters` that a configuration states."""
    stated: int | None = find_configuration(template, registry()).notes.get("parameters")
    return stated


def count_parameters(template: str, **options: Any) -> int:
    """Count the parameters of a configuration's model, on the meta device; tied parameters count once.

    Args:
        template: A definition, preset or configuration file, as for `-t`.
        **options: Options that override those of the configuration.
    """
    from .model.meta_model import meta_model

    return sum(parameter.numel() for parameter in meta_model(_resolved(template, options)).parameters())


def _resolved(template: str, options: Mapping[str, Any]) -> ResolvedModel:
    return resolve(find_configuration(template, registry()), options)


def _write_directory(resolved: ResolvedModel, parent: Path) -> Path:
    from .export.directory import prepare_directory

    return prepare_directory(resolved, parent / resolved.model_name).path
