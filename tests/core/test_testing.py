"""`forgather_core.testing` makes a test of each check, and plugins add their own checks."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from forgather_core import testing
from forgather_core.checks import CHECKS, Check, DoesNotApply, Measured, ModelUnderTest, check, expect
from forgather_core.checks.known import known_checks
from forgather_core.errors import DefinitionError
from forgather_core.testing import count_parameters, failure, presets, stated_parameters
from tests.support.plugins import PLUGIN, MakeRegistry

SEEN: list[ModelUnderTest] = []


@check("good", cause="nothing")
def good(subject: ModelUnderTest) -> Iterator[Measured]:
    """Always pass."""
    SEEN.append(subject)
    yield expect("always", True)


@check("bad", cause="a sign that is wrong")
def bad(subject: ModelUnderTest) -> Iterator[Measured]:
    """Always fail."""
    SEEN.append(subject)
    yield Measured("one side", 0.0)
    yield Measured("other side", 0.25, 1e-6, where="layer 3")
    yield expect("a statement", False)
    yield expect("an option has an effect", False, failure="an option has no effect (tried 1 and 2)")


@check("idle", cause="nothing")
def idle(subject: ModelUnderTest) -> Iterator[Measured]:
    """Never apply."""
    raise DoesNotApply("the model is not a bird")
    yield


@pytest.fixture(autouse=True)
def _three_checks(monkeypatch: pytest.MonkeyPatch) -> None:
    SEEN.clear()
    monkeypatch.setattr(testing, "known_checks", lambda: [good, bad, idle])


class Reports:
    """A plugin of the inner pytest that keeps its reports."""

    def __init__(self) -> None:
        self.all: list[Any] = []

    def pytest_runtest_logreport(self, report: Any) -> None:
        self.all += [report] if report.when == "call" or report.outcome != "passed" else []

    def pytest_collectreport(self, report: Any) -> None:
        self.all += [report] if report.failed else []

    def of(self, outcome: str) -> list[Any]:
        return [report for report in self.all if report.outcome == outcome]


Tried = Callable[[str], Reports]


@pytest.fixture
def tried(tmp_path: Path) -> Tried:
    """Return a function that runs pytest in this process on a class with the given body."""

    def run(body: str) -> Reports:
        file, reports = tmp_path / f"test_{tmp_path.name}.py", Reports()  # a new name for each test: modules are cached
        file.write_text(
            f"from forgather_core.testing import DefinitionTests\n\nclass TestIt(DefinitionTests):\n    {body}\n"
        )
        how = ("--import-mode=importlib", "-p", "no:cacheprovider", "-c", "/dev/null", "--rootdir", str(tmp_path))
        pytest.main([*how, "--basetemp", str(tmp_path / "inner"), str(file)], plugins=[reports])
        return reports

    return run


def test_each_check_is_a_test_on_one_directory(tried: Tried) -> None:
    done = tried("definition = 'llama'; options = {'hidden_size': 128, 'sliding_window': 9}; seed = 7")
    assert [report.nodeid.rpartition("::")[2] for report in done.all] == [
        "test_check[good]",
        "test_check[bad]",
        "test_check[idle]",
        "test_call[NOTSET]",  # call-agreement is not among these checks
    ]
    assert [report.outcome for report in done.all] == ["passed", "failed", "skipped", "skipped"]
    assert "the model is not a bird" in str(done.all[2].longrepr)
    assert str(done.all[1].longrepr) == (
        "bad: Always fail.\n"
        "  other side: off by 0.25, tolerance 1e-06, at layer 3\n"
        "  a statement: failed\n"
        "  an option has no effect (tried 1 and 2)\n"
        "usual cause: a sign that is wrong"
    )
    first, second = SEEN
    assert first is second
    assert (first.seed, first.full, first.resolved.options.hidden_size) == (7, False, 128)
    assert first.config().sliding_window < 9  # a small copy


@pytest.mark.slow
def test_checks_and_the_full_model_can_be_chosen(tried: Tried) -> None:
    done = tried("definition = 'llama/4M'; checks = ('good',); full = True")
    assert [report.outcome for report in done.all] == ["passed", "skipped"]  # no cases: call-agreement is not chosen
    assert SEEN[0].config().hidden_size == 256


@pytest.mark.few(1)
@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("definition = 'llama'; checks = ('goood',)", "there is no check 'goood'. Did you mean 'good'?"),
        ("checks = ('good',)", "TestIt requires `definition`"),
        ("definition = 'lama'; checks = ('good',)", "no model definition named 'lama'. Did you mean"),
        ("definition = 'llama'; options = {'hidden_size': 7}; checks = ('good',)", "must divide hidden_size"),
    ],
)
def test_errors_are_one_line(tried: Tried, body: str, message: str) -> None:
    done = tried(body)
    texts = [str(report.longrepr) for report in done.of("failed")]
    assert any(message in text for text in texts), texts
    assert not any("Traceback" in text or "testing.py" in text for text in texts)


def test_many_failures_are_truncated() -> None:
    row = {
        "name": "n",
        "promise": "P.",
        "reason": "ValueError: no (x.py:3)",
        "cause": "c",
        "measured": [Measured(f"case {i}", 2.0, 1.0).as_dict() for i in range(20)],
    }
    text = str(failure(row))
    assert text.count("case") == 8
    assert "and 12 more of 20" in text
    assert text.endswith("ValueError: no (x.py:3)\nusual cause: c")
    assert failure(row | {"cause": None}) is None


def test_parameters_are_counted_and_stated() -> None:
    assert "llama/30M" in presets("llama")
    assert count_parameters("llama/30M") == stated_parameters("llama/30M") == 30_321_152
    assert stated_parameters("llama/4M") != count_parameters("llama/4M", tie_word_embeddings=True)


# --- checks of plugins -----------------------------------------------------------------------------------------------

CHECK = """

from forgather_core.checks import check, expect

@hookimpl
def forgather_checks():
    @check("NAME", cause="birds")
    def added(subject):
        "Birds fly."
        yield expect("a bird", True)

    yield added
"""


def plugin(name: str, checks: str) -> str:
    return PLUGIN.replace("NAME", name) + checks


def test_checks_of_plugins_follow_the_built_in_ones(make_registry: MakeRegistry) -> None:
    plugins = make_registry(a=None, b=plugin("b", CHECK.replace("NAME", "birds")))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = known_checks(plugins)
    assert tuple(found[:-1]) == CHECKS
    assert isinstance(found[-1], Check)
    assert (found[-1].name, found[-1].promise) == ("birds", "Birds fly.")


@pytest.mark.parametrize(
    ("checks", "message"),
    [
        ("\n@hookimpl\ndef forgather_checks():\n    yield 3\n", "forgather_checks() must yield Check objects; got int"),
        ("\n@hookimpl\ndef forgather_checks():\n    import no_such_module\n", "No module named 'no_such_module'"),
        ("\n@hookimpl\ndef forgather_checks():\n    yield 1 / 0\n", "ZeroDivisionError"),
        ("\nimport no_such_module\n", "it cannot be loaded: ModuleNotFoundError"),
    ],
)
def test_a_failing_plugin_does_not_affect_others(make_registry: MakeRegistry, checks: str, message: str) -> None:
    plugins = make_registry(bad=plugin("bad", checks), good=plugin("good", CHECK.replace("NAME", "birds")))
    warned: list[str] = []
    assert known_checks(plugins, on_broken=warned.append)[-1].name == "birds"
    assert len(warned) == 1
    assert warned[0].startswith("the checks of the plugin 'bad' are not available: ")
    assert message in warned[0]
    with pytest.warns(UserWarning, match="the plugin 'bad'"):
        known_checks(plugins)


@pytest.mark.parametrize(("name", "owner"), [("birds", "the plugin 'a'"), (CHECKS[0].name, "Forgather")])
def test_two_checks_with_one_name_are_refused(make_registry: MakeRegistry, name: str, owner: str) -> None:
    text = CHECK.replace("NAME", name)
    plugins = make_registry(a=plugin("a", CHECK.replace("NAME", "birds")), b=plugin("b", text))
    with pytest.raises(DefinitionError, match=f"{owner} and the plugin 'b' both have a check named '{name}'"):
        known_checks(plugins)
