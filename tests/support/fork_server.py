"""Run Python command lines, each in a fork of a process that has imported torch and transformers.

A fork reads files, environment and arguments like a new process, but saves the seconds that imports take. Variables
that a preloaded package reads when it is imported, such as HF_HOME, are those of the server.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Self

TRANSFORMERS = (
    "torch",
    "transformers",
    "transformers.cache_utils",
    "transformers.masking_utils",
    "transformers.modeling_utils",
    "transformers.models.auto",
)
SERVER = """
import atexit, gc, importlib, json, os, runpy, signal, sys
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

for line in sys.stdin:
    request = json.loads(line)
    child = os.fork()
    if child == 0:
        output, error = (os.open(name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC) for name in request["outputs"])
        os.dup2(output, 1), os.dup2(output if request["merged"] else error, 2)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.chdir(request["cwd"])
        os.environ.clear(), os.environ.update(request["environment"])
        sys.dont_write_bytecode = bool(os.environ.get("PYTHONDONTWRITEBYTECODE"))
        signal.alarm(request["seconds"])
        sys.stdin, sys.stdout = open(0, closefd=False), open(1, "w", closefd=False)
        sys.stderr = open(2, "w", buffering=1, closefd=False)
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
        atexit._run_exitfuncs()
        sys.stdout.flush(), sys.stderr.flush()
        os._exit(code)
    _, status = os.waitpid(child, 0)
    print(os.waitstatus_to_exitcode(status), flush=True)
"""


class ForkServer:
    """Run command lines of Python one after another.

    Args:
        environment: The environment of the server, and of the commands that have no other.
        preload: The modules that are imported once.
    """

    def __init__(self, environment: Mapping[str, str], preload: Sequence[str] = TRANSFORMERS) -> None:
        self._environment = dict(environment)
        self._place = Path(tempfile.mkdtemp())
        self._process = subprocess.Popen(
            [sys.executable, "-c", SERVER, *preload],
            env=self._environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
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
        assert self._process.stdin is not None and self._process.stdout is not None
        outputs = [self._place / "stdout", self._place / "stderr"]
        request = {
            "arguments": list(arguments),
            "cwd": str(cwd),
            "environment": dict(self._environment if environment is None else environment),
            "seconds": seconds,
            "merged": merged,
            "outputs": [str(file) for file in outputs],
        }
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        code = int(self._process.stdout.readline())
        stdout, stderr = (file.read_text(encoding="utf-8") for file in outputs)
        return subprocess.CompletedProcess(list(arguments), code, stdout, stderr)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Stop the server."""
        self._process.communicate()
        shutil.rmtree(self._place, ignore_errors=True)
