"""Several processes on this machine that communicate through gloo, as torchrun starts them."""

from __future__ import annotations

import multiprocessing
import os
import tempfile
import time
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(["tests.support.ranks_preload"])


def start_ranks(function: Callable[..., Any], count: int, *args: Any) -> tuple[list[BaseProcess], list[Connection]]:
    """Start processes that call a function of a module with these arguments; each sends its result or its error."""
    store = Path(tempfile.mkdtemp()) / "store"
    processes, results = [], []
    for rank in range(count):
        result, sender = _CONTEXT.Pipe(duplex=False)
        process = _CONTEXT.Process(target=_run, args=(function, rank, count, str(store), sender, args), daemon=True)
        process.start()
        sender.close()
        processes.append(process)
        results.append(result)
    return processes, results


def run_ranks(function: Callable[..., Any], count: int, *args: Any, seconds: float = 120) -> list[Any]:
    """Call a function in `count` processes, and return the result or the error of each rank.

    Raises:
        TimeoutError: A process did not end.
    """
    processes, results = start_ranks(function, count, *args)
    try:
        return [received(result, seconds) for result in results]
    finally:
        for process in processes:
            process.kill()
            process.join()


def received(result: Connection, seconds: float) -> Any:
    """Return the object that a process sends; an EOFError if it has died.

    Raises:
        TimeoutError: It sends nothing.
    """
    end = time.monotonic() + seconds
    if not wait([result], max(end - time.monotonic(), 0)):
        raise TimeoutError(f"no result after {seconds} s")
    try:
        return result.recv()
    except EOFError as error:
        return error


def _run(function: Callable[..., Any], rank: int, count: int, store: str, sender: Connection, args: Any) -> None:
    import torch
    import torch.distributed as dist

    torch.set_num_threads(1)
    os.environ.update({"RANK": str(rank), "WORLD_SIZE": str(count), "LOCAL_RANK": str(rank)})
    dist.init_process_group("gloo", store=dist.FileStore(store, count), rank=rank, world_size=count)
    try:
        outcome = function(*args)
    except Exception as error:
        outcome = error
        outcome.add_note("".join(traceback.format_exception(error)))
    sender.send(outcome)
    dist.destroy_process_group()
