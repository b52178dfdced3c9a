"""Run Python command lines, each in a fork of a process that has imported torch and transformers.

A fork reads files, environment and arguments like a new process, but saves the seconds that imports take. Variables
that a preloaded package reads when it is imported, such as HF_HOME, are those of the server. The resident memory of a
fork includes the pages that it shares with the server.
"""

from __future__ import annotations

import json
import select
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

TRANSFORMERS = (
    "torch",
    "transformers",
    "transformers.cache_utils",
    "transformers.masking_utils",
    "transformers.modeling_utils",
    "transformers.models.auto",
)
OUTPUTS = ("stdout", "stderr")
SERVER = """
import atexit, gc, importlib, json, os, runpy, signal, sys, threading, time
for name in sys.argv[1:]:
    importlib.import_module(name)
gc.collect(), gc.freeze()

def run(arguments):
    first, *others = arguments
    sys.argv = ["-c" if first == "-c" else others[0] if first == "-m" else first, *others[first in ("-c", "-m"):]]
    if first == "-m":
        runpy.run_module(others[0], run_name="__main__", alter_sys=True)
    elif first == "-c":
        exec(compile(others[0], "<string>", "exec"), sys.modules["__main__"].__dict__)
    else:
        sys.path[0] = os.path.dirname(os.path.abspath(first))
        runpy.run_path(first, run_name="__main__")

def resident(pid):
    try:
        with open(f"/proc/{pid}/statm") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, IndexError):
        return 0

def watch(child, seconds, memory):
    end, exceeded, pause = time.monotonic() + seconds, None, 0.001
    while True:
        pid, status, usage = os.wait4(child, 0 if exceeded else os.WNOHANG)
        if pid:
            code = os.waitstatus_to_exitcode(status)
            return {"code": code, "peak": usage.ru_maxrss * 1024, "exceeded": exceeded}
        if time.monotonic() > end:
            exceeded = f"{seconds} s"
        elif memory is not None and resident(child) > memory:
            exceeded = f"{memory:,} bytes"
        if exceeded:
            os.kill(child, signal.SIGKILL)
        else:
            time.sleep(pause)
            pause = min(2 * pause, 0.02)

for line in sys.stdin:
    request = json.loads(line)
    child = os.fork()
    if child == 0:
        output, error = (os.open(name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC) for name in request["outputs"])
        os.dup2(output, 1), os.dup2(output if request["merged"] else error, 2)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.chdir(request["cwd"])
        if request["new"]:
            os.execve(sys.executable, [sys.executable, *request["arguments"]], request["environment"])
        os.environ.clear(), os.environ.update(request["environment"])
        sys.dont_write_bytecode = bool(os.environ.get("PYTHONDONTWRITEBYTECODE"))
        sys.stdin, sys.stdout = open(0, closefd=False), open(1, "w", errors=sys.stdout.errors, closefd=False)
        sys.stderr = open(2, "w", buffering=1, errors="backslashreplace", closefd=False)
        sys.path[1:1] = [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path]
        importlib.invalidate_caches()
        code = 0
        try:
            run(request["arguments"])
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else int(end.code is not None)
            if isinstance(end.code, str):
                print(end.code, file=sys.stderr)
        except BaseException:
            import traceback
            traceback.print_exc()
            code = 1
        threading._shutdown()
        atexit._run_exitfuncs()
        sys.stdout.flush(), sys.stderr.flush()
        os._exit(code)
    print(json.dumps({"number": request["number"], "pid": child}), flush=True)
    ended = watch(child, request["seconds"], request["memory"])
    print(json.dumps({"number": request["number"]} | ended), flush=True)
"""


@dataclass(frozen=True)
class Ended:
    """A command that has ended.

    Args:
        code: Exit code; negative if a signal ended it.
        stdout: Standard output.
        stderr: Standard error.
        peak: Peak resident memory in bytes.
        exceeded: The limit because of which it was killed; None if it kept its limits.
    """

    code: int
    stdout: bytes
    stderr: bytes
    peak: int
    exceeded: str | None = None


class ForkServer:
    """Run command lines of Python one after another.

    Args:
        environment: The environment of the server, and of the commands that have no other.
        preload: The modules that are imported once.
    """

    def __init__(self, environment: Mapping[str, str], preload: Sequence[str] = TRANSFORMERS) -> None:
        self._environment = dict(environment)
        self._place = Path(tempfile.mkdtemp())
        self._number = 0
        self._process = subprocess.Popen(
            [sys.executable, "-c", SERVER, *preload],
            env=self._environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,
        )

    def run(
        self,
        arguments: Sequence[str],
        *,
        cwd: Path,
        environment: Mapping[str, str] | None = None,
        seconds: int = 300,
        merged: bool = False,
    ) -> subprocess.CompletedProcess[str]:
        """Run `python ARGUMENTS`, where arguments begin with a script, `-m` or `-c`.

        Args:
            arguments: The arguments of Python.
            cwd: The working directory of the command.
            environment: The environment of the command; None uses that of the server.
            seconds: Time limit, after which the command is killed; the exit code is then negative.
            merged: Write standard error to standard output.
        """
        self.start(arguments, cwd=cwd, environment=environment, seconds=seconds, merged=merged)
        ended = self.wait()
        stdout, stderr = (b.decode().replace("\r\n", "\n").replace("\r", "\n") for b in (ended.stdout, ended.stderr))
        return subprocess.CompletedProcess(list(arguments), ended.code, stdout, stderr)

    def start(
        self,
        arguments: Sequence[str],
        *,
        cwd: Path,
        environment: Mapping[str, str] | None = None,
        seconds: int = 300,
        memory: int | None = None,
        merged: bool = False,
        new: bool = False,
    ) -> int:
        """Start a command, see `run`, and return its process id. `wait` must precede the next start.

        Args:
            arguments: The arguments of Python.
            cwd: The working directory of the command.
            environment: The environment of the command; None uses that of the server.
            seconds: Time limit, after which the command is killed.
            memory: Limit of the resident memory in bytes, above which the command is killed.
            merged: Write standard error to standard output.
            new: Run a new interpreter, which has imported nothing.
        """
        assert self._process.stdin is not None
        self._number += 1
        request = {
            "number": self._number,
            "arguments": list(arguments),
            "cwd": str(cwd),
            "environment": dict(self._environment if environment is None else environment),
            "seconds": seconds,
            "memory": memory,
            "merged": merged,
            "new": new,
            "outputs": [str(self._place / name) for name in OUTPUTS],
        }
        self._process.stdin.write(json.dumps(request).encode() + b"\n")
        return int(self._answer()["pid"])

    def running(self) -> bool:
        """Return whether the command that was started last still runs."""
        return not select.select([self._process.stdout], [], [], 0)[0]

    def wait(self) -> Ended:
        """Wait for the end of the command that was started last."""
        answer = self._answer()
        stdout, stderr = ((self._place / name).read_bytes() for name in OUTPUTS)
        return Ended(answer["code"], stdout, stderr, answer["peak"], answer["exceeded"])

    def _answer(self) -> dict[str, Any]:
        """Return the next answer to the last request; a caller that was interrupted has not read earlier ones."""
        assert self._process.stdout is not None
        while line := self._process.stdout.readline():
            answer: dict[str, Any] = json.loads(line)
            if answer["number"] == self._number:
                return answer
        raise RuntimeError("the server has ended")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Stop the server."""
        self._process.communicate()
        shutil.rmtree(self._place, ignore_errors=True)
