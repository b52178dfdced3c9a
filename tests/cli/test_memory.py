"""Work that exceeds the memory is refused before it starts, or ends with one line."""

from __future__ import annotations

import errno
import importlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.fork_server import ForkServer

from .conftest import LLAMA, SCRIPT, Cli


@pytest.fixture(scope="module")
def server() -> Iterator[ForkServer]:
    """Return a process in whose forks commands run."""
    with ForkServer(os.environ) as started:
        yield started


HUGE = ("--hidden-size", "1000000", "--device", "cpu")


@pytest.mark.regression("P2")
@pytest.mark.parametrize(
    "words",
    [
        (*LLAMA, *HUGE, "construct"),
        (*LLAMA, "--device", "cpu", "test", "--batch-size", "1000000"),
        (*LLAMA, "--device", "cpu", "test", "--sequence-length", "1000000", "--attn-implementation", "eager"),
    ],
    ids=["construct", "batch", "length"],
)
@pytest.mark.slow
def test_work_that_exceeds_memory_is_refused_before_it_starts(words: tuple[str, ...], server: ForkServer) -> None:
    # In a separate process with limited memory, in case the work is not refused.
    limit = "import resource; resource.setrlimit(resource.RLIMIT_AS, (6 * 2**30, resource.RLIM_INFINITY))"
    done = server.run(("-c", f"{limit}\n{SCRIPT}", *words), cwd=Path.cwd(), environment=os.environ)
    assert done.returncode == 2, done.stderr[-300:]
    assert " needs about " in done.stderr
    assert " is free on cpu: " in done.stderr
    assert "--force" in done.stderr
    assert done.stderr.count("\n") == 1
    assert not list(Path().rglob("config.json"))


@pytest.mark.regression("P2")
@pytest.mark.parametrize("command", ["construct", "test"])
def test_a_model_that_does_not_fit_is_refused(cli: Cli, command: str) -> None:
    error = cli(*LLAMA, *HUGE, command).error
    assert error.startswith("this model needs about ")
    assert error.endswith("--force to try anyway")
    assert not list(Path().rglob("config.json"))


@pytest.mark.regression("cpu-memory")
@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("[enforce fail at alloc_cpu.cpp:127] . DefaultCPUAllocator: can't allocate memory: you tried to "
                     "allocate 4000000000000 bytes. Error code 12 (Cannot allocate memory)"),
        MemoryError(),
        OSError(errno.ENOMEM, "Cannot allocate memory"),
        RuntimeError("CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported"),
        RuntimeError("Storage size calculation overflowed with sizes=[1000000000000, 768]"),
    ],
    ids=["torch", "python", "system", "cuda", "overflow"],
)  # fmt: skip
@pytest.mark.parametrize("words", [("ls",), (*LLAMA, "show"), ("checkpoint", "inspect", ".")], ids=lambda w: w[-1])
def test_running_out_of_memory_is_one_line(
    cli: Cli, monkeypatch: pytest.MonkeyPatch, error: Exception, words: tuple[str, ...]
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr("forgather_core.commands.listing.list_models", fail)
    monkeypatch.setattr("forgather_core.settings.resolved_model.ResolvedModel.to_dict", fail)
    monkeypatch.setattr("forgather_core.checkpoint.inspect_checkpoint", fail)
    text = cli(*words).error.lower()
    assert "memory" in text


def test_another_error_keeps_its_traceback(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("shapes do not match")

    monkeypatch.setattr("forgather_core.commands.listing.list_models", fail)
    with pytest.raises(RuntimeError, match="shapes"):
        from forgather_cli.main import app

        app(["ls"], standalone_mode=False)


def test_the_smallest_limit_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from forgather_core.runtime import memory_guard

    group = tmp_path / "cgroup"
    group.mkdir()
    (group / "memory.max").write_text("1000000\n")
    (group / "memory.current").write_text("700000\n")
    (group / "memory.stat").write_text("anon 1\ninactive_file 100000\n")
    monkeypatch.setattr(memory_guard, "_CGROUPS", group)
    own = Path("/proc/self/cgroup").read_text() if Path("/proc/self/cgroup").exists() else ""
    if not any(line.startswith("0::") for line in own.splitlines()):
        assert memory_guard._free_in(group, "memory.max", "memory.current", "inactive_file") == 400_000
    else:
        assert memory_guard.free_memory("cpu") == 400_000
    (group / "memory.max").write_text("max\n")
    assert (memory_guard.free_memory("cpu") or 2**40) > 400_000


@pytest.mark.regression("P7")
def test_ctrl_c_while_importing_is_one_line(tmp_path: Path) -> None:
    # Interrupt during the import of a library: a timer would not be reproducible.
    (tmp_path / "typer.py").write_text("import os, signal, time\nos.kill(os.getpid(), signal.SIGINT)\ntime.sleep(9)\n")
    text = (
        "import signal, sys; sys.argv[0] = 'forgather'\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # background jobs of a shell ignore SIGINT
        "try: from forgather_cli.program import main\n"
        "except ImportError: from forgather_cli.main import main\n"
        "main()"
    )
    path = os.pathsep.join((str(tmp_path), os.environ.get("PYTHONPATH", "")))
    done = subprocess.run(
        [sys.executable, "-c", text], capture_output=True, text=True, check=False, env=os.environ | {"PYTHONPATH": path}
    )
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "forgather: interrupted\n")


IMPORTING = """
import signal
from forgather_cli.program import _interrupt

signal.signal(signal.SIGINT, _interrupt)
try:
    signal.raise_signal(signal.SIGINT)
except KeyboardInterrupt:
    print("raised outside of imports", flush=True)
import swallowing
print("went on")
"""
SWALLOWING = """
import signal
try:
    signal.raise_signal(signal.SIGINT)
except KeyboardInterrupt:
    pass
"""


def test_ctrl_c_in_a_library_that_swallows_it_ends_the_program(tmp_path: Path) -> None:
    """numpy is left imported by half, and checks then failed with AttributeErrors."""
    (tmp_path / "swallowing.py").write_text(SWALLOWING)
    path = os.pathsep.join((str(tmp_path), os.environ.get("PYTHONPATH", "")))
    command = [sys.executable, "-c", IMPORTING]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ | {"PYTHONPATH": path})
    expected = (130, "raised outside of imports\n", "forgather: interrupted\n")
    assert (done.returncode, done.stdout, done.stderr) == expected


@pytest.mark.regression("P7")
@pytest.mark.few(2)
@pytest.mark.parametrize("command", ["test", "estimate", "compare", "verify", "construct"])
def test_ctrl_c_keeps_partial_results(cli: Cli, monkeypatch: pytest.MonkeyPatch, command: str) -> None:
    def after(times: int, name: str) -> None:
        module, _, attribute = name.rpartition(":")
        real, calls = getattr(importlib.import_module(module), attribute), []

        def run(*args: object, **more: object) -> object:
            calls.append(1)
            if len(calls) > times:
                raise KeyboardInterrupt
            return real(*args, **more)

        monkeypatch.setattr(importlib.import_module(module), attribute, run)

    tiny = ("--hidden-size", "16", "--num-hidden-layers", "1", "--intermediate-size", "16")
    words = {"test": ("--device", "cpu", "test", "--sequence-length", "8", "--steps", "5"),
             "estimate": ("estimate",), "compare": ("compare", "llama/30M"),
             "verify": ("verify", "--checks", "causality,rows"), "construct": ("construct",)}[command]  # fmt: skip
    place = {"test": (2, "forgather_core.training.loop:loss_of"),
             "estimate": (2, "forgather_core.estimate.run:on_device"),
             "compare": (1, "forgather_core.estimate.compare:estimate_of"),
             "verify": (1, "forgather_core.checks.run:try_check"),
             "construct": (0, "forgather_core.estimate:memory_of_step")}[command]  # fmt: skip
    after(*place)
    done = cli(*LLAMA, *tiny, *words, "--json")
    assert (done.code, done.err.splitlines()[-1]) == (130, "forgather: interrupted")
    assert done.out, "what was found is lost"
    report = json.loads(done.out)
    found = {"test": "steps", "estimate": "devices", "compare": "models", "verify": "checks", "construct": "options"}
    rows = report[found[command]]
    assert len(rows) == {"test": 2, "estimate": 2, "compare": 1, "verify": 1}.get(command, len(rows)) > 0
    assert any("interrupted" in note for note in report["notes"])
