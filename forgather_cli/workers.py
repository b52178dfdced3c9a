"""`--nproc-per-node`: start processes, in which the first one reports."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import typer

from forgather_core.errors import ForgatherError
from forgather_core.parallel.launched import is_first, launched


@contextmanager
def worker() -> Iterator[None]:
    """Run the program as one of several processes: the first one prints, and the first error is reported once."""
    if launched() is None:
        yield
        return
    from forgather_core.parallel.first_error import only_first_error

    if not is_first():
        sys.stdout = sys.stderr = Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115 - until the process ends
    try:
        with only_first_error():
            yield
    except Exception:
        sys.stderr = sys.__stderr__
        raise


def start_processes(command: str, model: Any, options: dict[str, Any], count: int) -> None:
    """Run this command line in several processes, unless this is one of them.

    Args:
        command: The command.
        model: The configuration of the model.
        options: The options of the command, which are checked before a process is started.
        count: The number of processes.

    Raises:
        typer.Exit: The processes have ended.
        ForgatherError: An option is invalid, or a process was killed.
    """
    here = launched()
    if here is not None:
        if here.local_processes != count:
            problem = f"is {count}, but {here.local_processes} processes were started on this machine"
            raise ForgatherError(problem, option="--nproc-per-node", hint="remove it")
        return
    from forgather.calls import Call
    from forgather_core.commands.parallel import check_parallel
    from forgather_core.parallel.launch import launch

    given = {name: value for name, value in options.items() if name != "project"}
    resolved = Call(command, model, options["project"], given).resolved
    if resolved.build.device == "meta" and command != "train":
        raise ForgatherError("requires a real device: add --device cpu", option="--nproc-per-node")
    check_parallel(resolved, count)
    raise typer.Exit(launch(["-m", "forgather", *sys.argv[1:]], count))
