"""Work that needs more memory than there is: refused before it starts, or ended with one line."""

from __future__ import annotations

import errno
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from .conftest import LLAMA, Cli, start

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
@pytest.mark.few(2)
def test_what_does_not_fit_is_refused_before_it_starts(words: tuple[str, ...]) -> None:
    # In a process of its own, which cannot take the machine's memory where it is not refused.
    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_AS, (6 * 2**30, resource.RLIM_INFINITY))

    done = start(*words, preexec_fn=limit)
    assert done.returncode == 2, done.stderr[-300:]
    assert " needs about " in done.stderr
    assert " is free on cpu: " in done.stderr
    assert "--force" in done.stderr
    assert done.stderr.count("\n") == 1
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
def test_no_memory_is_one_line(
    cli: Cli, monkeypatch: pytest.MonkeyPatch, error: Exception, words: tuple[str, ...]
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr("forgather_core.listing.list_models", fail)
    monkeypatch.setattr("forgather_core.report.settings_report", fail)
    monkeypatch.setattr("forgather_core.checkpoint.inspect_checkpoint", fail)
    text = cli(*words).error.lower()
    assert "memory" in text


def test_another_error_keeps_its_traceback(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("shapes do not match")

    monkeypatch.setattr("forgather_core.listing.list_models", fail)
    with pytest.raises(RuntimeError, match="shapes"):
        from forgather_cli.main import app

        app(["ls"], standalone_mode=False)


def test_the_smallest_limit_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from forgather_core import memory_guard

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
@pytest.mark.slow
@pytest.mark.parametrize("seconds", [0.06, 0.1, 0.15, 0.25])
def test_ctrl_c_while_importing_is_one_line(seconds: float) -> None:
    text = (
        "import sys; sys.argv[0] = 'forgather'\n"
        "try: from forgather_cli.program import main\n"
        "except ImportError: from forgather_cli.main import main\n"
        "sys.stdout.write('.'); main()"
    )
    command = [sys.executable, "-c", text, *LLAMA, "--device", "cpu", "test"]
    running = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    time.sleep(seconds)
    running.send_signal(signal.SIGINT)
    _, err = running.communicate(timeout=60)
    assert "forgather_cli" not in err  # a line of ours in a traceback
    assert running.returncode in (130, -signal.SIGINT)
