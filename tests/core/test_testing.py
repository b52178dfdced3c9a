"""`forgather_core.testing` makes a test of each check, and plugins bring checks of their own."""

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
    """It is good."""
    SEEN.append(subject)
    yield expect("always", True)


@check("bad", cause="a sign that is wrong")
def bad(subject: ModelUnderTest) -> Iterator[Measured]:
    """It is bad."""
    SEEN.append(subject)
    yield Measured("one side", 0.0)
    yield Measured("other side", 0.25, 1e-6, where="layer 3")
    yield expect("a thing", False)


@check("idle", cause="nothing")
def idle(subject: ModelUnderTest) -> Iterator[Measured]:
    """It is idle."""
    raise DoesNotApply("the model is no bird")
    yield


@pytest.fixture(autouse=True)
def _three_checks(monkeypatch: pytest.MonkeyPatch) -> None:
    SEEN.clear()
    monkeypatch.setattr(testing, "known_checks", lambda: [good, bad, idle])


class Reports:
    """A plugin of the inner pytest that keeps what it reports."""

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
    """Run pytest within this process on a class with this body."""

    def run(body: str) -> Reports:
        file, reports = tmp_path / f"test_{tmp_path.name}.py", Reports()  # no name twice: modules are kept
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
    ]
    assert [report.outcome for report in done.all] == ["passed", "failed", "skipped"]
    assert "the model is no bird" in str(done.all[2].longrepr)
    assert str(done.all[1].longrepr) == (
        "bad: It is bad.\n"
        "  other side: off by 0.25, allowed 1e-06, at layer 3\n"
        "  a thing: not so\n"
        "usual cause: a sign that is wrong"
    )
    first, second = SEEN
    assert first is second
    assert (first.seed, first.full, first.settings.options.hidden_size) == (7, False, 128)
    assert first.config().sliding_window < 9  # a small copy


@pytest.mark.slow
def test_names_and_the_full_model_are_asked_for(tried: Tried) -> None:
    done = tried("definition = 'llama/4M'; checks = ('good',); full = True")
    assert len(done.all) == len(done.of("passed")) == 1
    assert SEEN[0].config().hidden_size == 256


@pytest.mark.few(1)
@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("definition = 'llama'; checks = ('goood',)", "there is no check 'goood'. Did you mean 'good'?"),
        ("checks = ('good',)", "TestIt: it needs `definition`"),
        ("definition = 'lama'; checks = ('good',)", "no model definition named 'lama'. Did you mean"),
        ("definition = 'llama'; options = {'hidden_size': 7}; checks = ('good',)", "does not divide hidden_size"),
    ],
)
def test_what_is_wrong_is_a_line(tried: Tried, body: str, said: str) -> None:
    done = tried(body)
    texts = [str(report.longrepr) for report in done.of("failed")]
    assert any(said in text for text in texts), texts
    assert not any("Traceback" in text or "testing.py" in text for text in texts)


def test_many_failures_are_told_in_part() -> None:
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


def test_parameters_are_counted_and_told() -> None:
    assert "llama/30M" in presets("llama")
    assert count_parameters("llama/30M") == stated_parameters("llama/30M") == 30_321_152
    assert stated_parameters("llama/4M") != count_parameters("llama/4M", tie_word_embeddings=True)


# --- checks of plugins -----------------------------------------------------------------------------------------------

CHECK = """

from forgather_core.checks import check, must

@hookimpl
def forgather_checks():
    @check("NAME", cause="birds")
    def added(subject):
        "Birds fly."
        yield must("a bird", True)

    yield added
"""


def plugin(name: str, checks: str) -> str:
    return PLUGIN.replace("NAME", name) + checks


def test_checks_of_plugins_come_after_ours(make_registry: MakeRegistry) -> None:
    plugins = make_registry(a=None, b=plugin("b", CHECK.replace("NAME", "birds")))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = known_checks(plugins)
    assert tuple(found[:-1]) == CHECKS
    assert isinstance(found[-1], Check)
    assert (found[-1].name, found[-1].promise) == ("birds", "Birds fly.")


@pytest.mark.parametrize(
    ("checks", "said"),
    [
        ("\n@hookimpl\ndef forgather_checks():\n    yield 3\n", "forgather_checks() gave a int, not a Check"),
        ("\n@hookimpl\ndef forgather_checks():\n    import no_such_module\n", "No module named 'no_such_module'"),
        ("\n@hookimpl\ndef forgather_checks():\n    yield 1 / 0\n", "ZeroDivisionError"),
        ("\nimport no_such_module\n", "it cannot be loaded: ModuleNotFoundError"),
    ],
)
def test_a_plugin_that_fails_is_named_and_harms_nothing(make_registry: MakeRegistry, checks: str, said: str) -> None:
    plugins = make_registry(bad=plugin("bad", checks), good=plugin("good", CHECK.replace("NAME", "birds")))
    told: list[str] = []
    assert known_checks(plugins, on_broken=told.append)[-1].name == "birds"
    assert len(told) == 1
    assert told[0].startswith("the checks of the plugin 'bad' are not tried: ")
    assert said in told[0]
    with pytest.warns(UserWarning, match="the plugin 'bad'"):
        known_checks(plugins)


@pytest.mark.parametrize(("name", "owner"), [("birds", "the plugin 'a'"), (CHECKS[0].name, "Forgather")])
def test_two_checks_of_one_name_are_refused(make_registry: MakeRegistry, name: str, owner: str) -> None:
    text = CHECK.replace("NAME", name)
    plugins = make_registry(a=plugin("a", CHECK.replace("NAME", "birds")), b=plugin("b", text))
    with pytest.raises(DefinitionError, match=f"two checks are named '{name}': {owner}'s and the plugin 'b''s"):
        known_checks(plugins)
