"""A crash, an endless loop or an exception in a child process is the result of one call."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from forgather_core.errors import ConfigurationError
from forgather_core.runtime.child_process import ChildDiedError, ChildProcesses, can_fork

pytestmark = pytest.mark.skipif(not can_fork(), reason="processes cannot be forked here")


def act(what: str) -> str:
    """Return, crash, hang or raise."""
    if what == "crash":
        ctypes.string_at(0)
    elif what == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    elif what == "exit":
        os._exit(3)
    elif what == "hang":
        time.sleep(60)
    elif what == "value":
        raise ValueError("no such value")
    elif what == "option":
        raise ConfigurationError("must be 1", option="--steps", hint="use 1")
    elif what == "unpicklable":
        raise type("LocalError", (Exception,), {})("of a local class")
    return f"did {what}"


@pytest.mark.parametrize(
    ("what", "reason"),
    [
        ("crash", "the process was ended by SIGSEGV"),
        ("killed", "the process was ended by SIGKILL, perhaps because memory ran out"),
        ("exit", "the process exited with code 3"),
    ],
)
def test_the_end_of_a_child_is_an_error_of_its_call_only(what: str, reason: str) -> None:
    with ChildProcesses(act) as run:
        assert run("one") == "did one"
        with pytest.raises(ChildDiedError, match=f"^{reason}$"):
            run(what)
        assert run("two") == "did two"


@pytest.mark.parametrize("count", [1, 3])
def test_results_are_in_the_order_of_the_arguments(count: int) -> None:
    order = ["one", "crash", "two", "exit", "three", "four"]
    with ChildProcesses(act, count=count) as run:
        found = list(run.map(order))
    assert [argument for argument, _ in found] == order
    assert [type(result) for _, result in found] == [str, ChildDiedError, str, ChildDiedError, str, str]


def test_results_are_available_as_soon_as_they_are_known_and_arguments_are_taken_when_a_child_is_free(
    tmp_path: Path,
) -> None:
    taken: list[str] = []

    def arguments() -> Iterator[str]:
        for what in ("wait", "crash", "two"):
            taken.append(what)
            yield what

    def wait_or_act(what: str) -> str:
        while what == "wait" and not (tmp_path / "go").exists():
            time.sleep(0.01)
        return act(what)

    with ChildProcesses(wait_or_act, count=2) as run:
        results = run.as_completed(arguments())
        first, result = next(results)
        assert (first, type(result)) == ("crash", ChildDiedError)
        assert taken == ["wait", "crash"]
        assert next(results) == ("two", "did two")
        (tmp_path / "go").touch()
        assert list(results) == [("wait", "did wait")]
    with ChildProcesses(act, count=2) as run:
        with pytest.raises(ValueError, match="no such value"):
            list(run.as_completed(["hang", "value"]))
        assert run("two") == "did two"


def test_a_call_that_takes_too_long_is_ended() -> None:
    with ChildProcesses(act, seconds=2, count=2) as run:
        results = dict(run.map(["one", "hang", "two"]))
    assert str(results["hang"]) == "the process took more than 2 s"
    assert results["one"] == "did one" and results["two"] == "did two"


def test_exceptions_are_those_of_the_function() -> None:
    with ChildProcesses(act) as run:
        with pytest.raises(ValueError, match="no such value") as raised:
            run("value")
        assert "in act" in "".join(raised.value.__notes__)
        with pytest.raises(ConfigurationError) as error:
            run("option")
        assert (error.value.option, error.value.hint) == ("--steps", "use 1")
        with pytest.raises(RuntimeError, match="LocalError: of a local class"):
            run("unpicklable")
        assert run("one") == "did one"


def test_a_child_of_single_use_is_new_for_each_call() -> None:
    with ChildProcesses(lambda _: os.getpid(), single_use=True, count=2) as run:
        assert len({result for _, result in run.map(range(5))}) == 5
    with ChildProcesses(lambda _: os.getpid(), count=2) as run:
        assert len({result for _, result in run.map(range(5))}) <= 2


def test_results_that_are_not_read_are_not_those_of_later_calls() -> None:
    with ChildProcesses(act, count=2) as run:
        for _ in run.map(["one", "two", "three", "four"]):
            break
        assert [result for _, result in run.map(["five", "six"])] == ["did five", "did six"]
        with pytest.raises(ValueError, match="no such value"):
            list(run.map(["value", "one", "two"]))
        assert [result for _, result in run.map(["five", "six"])] == ["did five", "did six"]


def test_without_a_fork_the_function_is_called_in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("forgather_core.runtime.child_process.can_fork", lambda: False)
    with ChildProcesses(lambda _: os.getpid(), count=2) as run:
        assert dict(run.map([1, 2])) == {1: os.getpid(), 2: os.getpid()}


def test_children_end_with_their_parent(tmp_path: Path) -> None:
    script = f"""
import os, time
from forgather_core.runtime.child_process import ChildProcesses
def compute(_):
    open({str(tmp_path / "new")!r}, "w").write(str(os.getpid()))
    os.rename({str(tmp_path / "new")!r}, {str(tmp_path / "pid")!r})
    time.sleep(60)
run = ChildProcesses(compute)
import threading
def end():
    while not os.path.exists({str(tmp_path / "pid")!r}):
        time.sleep(0.05)
    os._exit(0)
threading.Thread(target=end).start()
run(0)
"""
    subprocess.run([sys.executable, "-c", script], check=True, timeout=60)
    child = int((tmp_path / "pid").read_text())
    deadline = time.monotonic() + 30
    while Path(f"/proc/{child}").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not Path(f"/proc/{child}").exists()
