"""A process that has imported everything and forks a child for each save, which may be killed.

It reads a JSON object a line (`directory`, `generation`, `how`, `kill_at`, `fsize`, `uid`; or `flags` for a model
directory that is constructed rather than a model that is saved), and answers with the pid, then with the status of the
child.
"""

from __future__ import annotations

import gc
import json
import os
import resource
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any


class Server:
    """The client of the process."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process

    def start(self, directory: Path, generation: int, how: dict[str, Any], **more: Any) -> int:
        """Start a save and return the pid of its process."""
        assert self.process.stdin is not None
        request = {"directory": str(directory), "generation": generation, "how": how, **more}
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        return int(self._line())

    def finish(self) -> str:
        """Return `ok`, `killed`, or the text of the error."""
        return str(json.loads(self._line()))

    def save(self, directory: Path, generation: int, how: dict[str, Any], **more: Any) -> str:
        """Save and return the outcome."""
        self.start(directory, generation, how, **more)
        return self.finish()

    def _line(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline()


@contextmanager
def server() -> Iterator[Server]:
    """Start a server, and stop it at the end."""
    command = [sys.executable, "-m", "tests.faults.server"]
    env = os.environ | {"OMP_NUM_THREADS": "1"}
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=env) as process:
        try:
            yield Server(process)
        finally:
            assert process.stdin is not None
            process.stdin.close()


def serve() -> None:
    """Answer requests until the input ends."""
    import xxhash  # noqa: F401 - a saver without rights could not import it later

    from . import steps  # noqa: F401 - each child would import it
    from .models import model_of

    model_of(0)  # triggers late imports
    gc.collect()
    gc.freeze()  # otherwise a collection in a child copies the pages of all objects
    for line in sys.stdin:
        request = json.loads(line)
        reader, writer = os.pipe()
        pid = os.fork()
        if pid == 0:
            os.close(reader)
            text = _save(request)
            os.write(writer, text.encode())
            os._exit(0)
        os.close(writer)
        print(pid, flush=True)
        with os.fdopen(reader, encoding="utf-8") as answer:
            text = answer.read()
        _, status = os.waitpid(pid, 0)
        print(json.dumps("killed" if os.WIFSIGNALED(status) else text), flush=True)


def _construct(directory: Path, flags: dict[str, Any]) -> None:
    from forgather_core.commands.construct import construct
    from forgather_core.definitions.registry import registry
    from forgather_core.settings.layers import find_configuration
    from forgather_core.settings.resolve import resolve

    shared = {"output_dir": directory, "device": "cpu", "save_checkpoint": True, "safetensors": True}
    construct(resolve(find_configuration("llama/4M", registry()), shared | flags), refresh=True)


def _save(request: dict[str, Any]) -> str:
    from forgather_core.errors import ForgatherError

    from .models import save
    from .steps import Steps, die

    if request.get("fsize") is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (request["fsize"], request["fsize"]))
    if request.get("uid") is not None:
        os.setuid(request["uid"])
    at = request.get("kill_at")
    try:
        with Steps(at, die).counting() if at is not None else nullcontext():
            if "flags" in request:
                _construct(Path(request["directory"]), request["flags"])
            else:
                save(Path(request["directory"]), request["generation"], **request["how"])
    except ForgatherError as error:
        return f"refused: {error}"
    except BaseException as error:  # the client reports it
        return f"{type(error).__name__}: {error}"
    return "ok"


if __name__ == "__main__":
    serve()
