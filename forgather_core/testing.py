"""What the tests of a plugin use: every check of `verify` as a test of its own, and the sizes of presets.

    from forgather_core.testing import DefinitionTests

    class TestMine(DefinitionTests):
        definition = "mine"

Needs pytest, which Forgather itself does not.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import pytest

from .checks import SKIPPED, Check, ModelUnderTest, choose, try_check
from .checks.known import known_checks
from .definitions.check import failure_text
from .definitions.registry import registry
from .errors import ForgatherError
from .settings.layers import find_configuration
from .settings.resolve import Settings, resolve

_FAILURES = 8  # of one check, told in full


class DefinitionTests:
    """Extend it in a class whose name begins with `Test`: each check is a test, `test_check[causality]`.

    The model directory is written once for the class, and each check is tried on a small copy with the same features.
    """

    definition: ClassVar[str]  # what -t takes: "mine", "mine/4M"
    checks: ClassVar[Sequence[str] | None] = None  # names; None takes all, plugins' own included
    options: ClassVar[Mapping[str, Any]] = {}  # over those of the preset
    full: ClassVar[bool] = False  # the configuration as it is, rather than a small one
    seed: ClassVar[int] = 0  # of weights and texts

    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        """Make a test of each check."""
        if "forgather_check" in metafunc.fixturenames:
            if not hasattr(self, "definition"):
                pytest.fail(f"{type(self).__name__}: it needs `definition`, what -t takes", pytrace=False)
            try:
                chosen = choose(known_checks(), self.checks or ())
            except ForgatherError as error:
                pytest.fail(f"{type(self).__name__}: {error}", pytrace=False)
            metafunc.parametrize("forgather_check", chosen, ids=[check.name for check in chosen])

    @pytest.fixture(scope="class")
    @classmethod
    def forgather_subject(
        cls, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
    ) -> ModelUnderTest:
        """The model directory of the definition, ready to be tried."""
        tests: type[DefinitionTests] = request.cls
        place = tmp_path_factory.mktemp(tests.__name__)
        try:
            settings = _settings(tests.definition, tests.options)
            directory = _directory(settings, place / "model")
        except ForgatherError as error:
            pytest.fail(f"'{tests.definition}' gives no model directory: {error}", pytrace=False)
        (place / "copy").mkdir()
        return ModelUnderTest(directory, place / "copy", settings=settings, full=tests.full, seed=tests.seed)

    def test_check(self, forgather_check: Check, forgather_subject: ModelUnderTest) -> None:
        """The promise is kept; what does not apply is skipped."""
        row = try_check(forgather_check, forgather_subject)
        if row["result"] == SKIPPED:
            pytest.skip(row["reason"])
        if (text := failure(row)) is not None:
            pytest.fail(text, pytrace=False)


def failure(row: Mapping[str, Any]) -> str | None:
    """What a check that failed tells: the promise, each case with its error and place, the usual cause.

    Args:
        row: From `checks.try_check`.
    """
    if row["cause"] is None:
        return None
    wrong = [one for one in row["measured"] if not one["holds"]]
    lines = [f"{row['name']}: {row['promise']}", *(f"  {failure_text(one)}" for one in wrong[:_FAILURES])]
    if len(wrong) > _FAILURES:
        lines.append(f"  and {len(wrong) - _FAILURES} more of {len(row['measured'])}")
    if row["reason"]:
        lines.append(f"  {row['reason']}")
    return "\n".join([*lines, f"usual cause: {row['cause']}"])


def presets(definition: str) -> list[str]:
    """Every preset of a definition, as `-t` takes it: "mine/4M"."""
    return [f"{definition}/{preset}" for preset in registry().definition(definition).preset_names()]


def stated_parameters(template: str) -> int | None:
    """How many parameters a configuration says that it has: its `parameters`."""
    stated: int | None = find_configuration(template, registry()).notes.get("parameters")
    return stated


def count_parameters(template: str, **options: Any) -> int:
    """How many parameters a configuration has, of its model on meta; a tied one is counted once.

    Args:
        template: What `-t` takes.
        **options: Over those of the configuration.
    """
    from .model.meta_model import meta_model

    return sum(parameter.numel() for parameter in meta_model(_settings(template, options)).parameters())


def _settings(template: str, options: Mapping[str, Any]) -> Settings:
    return resolve(find_configuration(template, registry()), options)


def _directory(settings: Settings, place: Path) -> Path:
    from .export.directory import prepare_directory

    return prepare_directory(settings, place / settings.model_name).path
