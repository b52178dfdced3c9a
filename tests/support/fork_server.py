"""Run commands of the program, each in a fork of a process that has imported torch and transformers.

A fork reads files, environment and arguments like a new process, but saves two seconds of imports.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

SERVER = """
import atexit, importlib, json, os, signal, sys
import torch, transformers
import transformers.cache_utils, transformers.masking_utils, transformers.modeling_utils, transformers.models.auto
import forgather_cli.main
for line in sys.stdin:
    arguments, seconds = json.loads(line)
    child = os.fork()
    if child == 0:
        output = os.open("../printed", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(output, 1), os.dup2(output, 2), os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        signal.alarm(seconds)
        sys.stdout = open(1, "w", closefd=False)
        sys.stderr = open(2, "w", buffering=1, closefd=False)
        sys.argv = ["forgather", *arguments]
        importlib.invalidate_caches()
        code = 0
        try:
            forgather_cli.main.main()
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else int(end.code is not None)
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
    """Run commands of the program one after another.

    Args:
        workdir: The working directory of the commands. Their output is written to `printed` in its parent directory.
        environment: The environment of the commands.
    """

    def __init__(self, workdir: Path, environment: Mapping[str, str]) -> None:
        self._output = workdir.parent / "printed"
        self._process = subprocess.Popen(
            [sys.executable, "-c", SERVER],
            cwd=workdir,
            env=dict(environment),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def run(self, arguments: Sequence[str], seconds: int) -> tuple[int, str]:
        """Run `forgather ARGUMENTS`, and return its exit code and its output.

        Args:
            arguments: The arguments of the command.
            seconds: Time limit, after which the command is killed; the exit code is then negative.
        """
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(json.dumps([list(arguments), seconds]) + os.linesep)
        self._process.stdin.flush()
        code = int(self._process.stdout.readline())
        return code, self._output.read_text(encoding="utf-8")

    def close(self) -> None:
        """Stop the server."""
        self._process.communicate()
