"""Choose checks, and refuse what cannot be checked."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from forgather_core.checks import CHECKS, Check, Measured, ModelUnderTest, check, expect
from forgather_core.checks.choose import choose
from forgather_core.checks.run import verify
from forgather_core.commands.construct import construct
from forgather_core.definitions.registry import Registry
from forgather_core.errors import CheckError
from forgather_core.runtime.child_process import can_fork
from forgather_core.settings.layers import find_configuration
from forgather_core.settings.resolve import resolve

SMALL = {"hidden_size": 32, "num_hidden_layers": 1, "tokenizer": "bytes"}
forked = pytest.mark.skipif(not can_fork(), reason="processes cannot be forked here")


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    project = tmp_path_factory.mktemp("project")
    resolved = resolve(find_configuration("single_head", Registry(), project), SMALL)
    return construct(resolved, project=project).directory.path


def test_the_page_lists_every_check() -> None:
    page = (Path(__file__).parents[3] / "docs" / "verify.md").read_text(encoding="utf-8")
    rows = [f"| `{check.name}` | {check.promise} | {check.cause} |" for check in CHECKS]
    listed = [line for line in page.splitlines() if line.startswith("| `") and line.count("|") == 4]
    own = {check.name for check in CHECKS}
    assert [line for line in listed if line.split("`")[1] in own] == rows


def test_an_unknown_check_has_option_and_hint() -> None:
    with pytest.raises(CheckError) as caught:
        choose(CHECKS, ["kv-cash"])
    assert (caught.value.option, caught.value.hint) == ("--checks", "Did you mean 'kv-cache'?")


def test_a_directory_without_a_model_is_the_file_of_the_error(tmp_path: Path) -> None:
    with pytest.raises(CheckError) as caught:
        verify(tmp_path, CHECKS)
    assert caught.value.file == str(tmp_path)
    assert str(caught.value) == f"{tmp_path} is not a model directory: it has no config.json: name a model directory"


def use_cores(count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("forgather_core.checks.shared.processes.usable_cores", lambda: count)


@check("call-agreement", cause="none")
def longest(subject: ModelUnderTest) -> Iterator[Measured]:
    """Run on until the process ends."""
    time.sleep(600)
    yield expect("unreached", True)


@check("other", cause="none")
def other(subject: ModelUnderTest) -> Iterator[Measured]:
    """Hold."""
    yield expect("ran", True)


@forked
def test_two_checks_run_at_once_with_call_agreement_first(
    directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def met(mine: str, other: str) -> bool:
        """Return whether the check of the other process is seen to run while this one does."""
        (tmp_path / mine).touch()
        end = time.monotonic() + 60
        while not (tmp_path / other).exists() and time.monotonic() < end:
            time.sleep(0.01)
        return (tmp_path / other).exists()

    @check("call-agreement", cause="none")
    def long(subject: ModelUnderTest) -> Iterator[Measured]:
        """Meet the last check."""
        yield expect("met", met("long", "last"))

    @check("last", cause="none")
    def last(subject: ModelUnderTest) -> Iterator[Measured]:
        """Meet call-agreement."""
        yield expect("met", met("last", "long"))

    begun: list[str] = []
    use_cores(2, monkeypatch)
    report = verify(directory, [other, long, last], on_check=begun.append)
    assert [row["name"] for row in report["checks"]] == ["other", "call-agreement", "last"]
    assert (report["passed"], report["failed"]) == (3, 0)
    assert begun[:3] == ["call-agreement", "other", "last"]
    assert set(begun[3:]) <= {"call-agreement", "last"}  # the one that still runs at the end
    assert report["seconds"] >= max(row["seconds"] for row in report["checks"])


@forked
@pytest.mark.parametrize(("cores", "full", "processes"), [(4, False, 2), (1, False, 1), (4, True, 1)])
def test_one_core_and_a_full_model_run_one_check_at_a_time(
    cores: int, full: bool, processes: int, directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def named(name: str) -> Check:
        @check(name, cause="none")
        def leave(subject: ModelUnderTest) -> Iterator[Measured]:
            """Leave the id of the process."""
            (tmp_path / f"{name}.pid").write_text(str(os.getpid()))
            time.sleep(1)
            yield expect("ran", True)

        return leave

    use_cores(cores, monkeypatch)
    begun: list[str] = []
    verify(directory, [named("call-agreement"), named("two")], full=full, on_check=begun.append)
    assert len({file.read_text() for file in tmp_path.glob("*.pid")}) == processes
    first = "call-agreement" if processes == 2 else "two"  # if interrupted, a run has the quick checks
    assert begun[0] == first


@forked
def test_the_end_of_a_process_is_the_failure_of_one_check(directory: Path) -> None:
    @check("killed", cause="none")
    def killed(subject: ModelUnderTest) -> Iterator[Measured]:
        """End the process."""
        os.kill(os.getpid(), signal.SIGKILL)
        yield expect("unreached", True)

    partial: list[dict[str, Any]] = []
    report = verify(directory, [killed, other], on_partial=partial.append)
    assert [row["result"] for row in report["checks"]] == ["failed", "passed"]
    assert report["checks"][0]["reason"].startswith("the process was ended by SIGKILL")
    assert report["complete"] and not partial


@forked
def test_an_interrupted_run_keeps_the_rows_so_far(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    @check("last", cause="none")
    def last(subject: ModelUnderTest) -> Iterator[Measured]:
        """Hold."""
        yield expect("ran", True)

    def interrupt(name: str) -> None:
        if name == "last":
            raise KeyboardInterrupt

    partial: list[dict[str, Any]] = []
    use_cores(2, monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        verify(directory, [longest, other, last], on_check=interrupt, on_partial=partial.append)
    (kept,) = partial
    assert [row["name"] for row in kept["checks"]] == ["other"]
    assert kept["notes"] == ["ended early, after 1 of 3 checks: interrupted"]
