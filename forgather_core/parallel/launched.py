"""The place of this process among those that torchrun, or another launcher, has started."""

from __future__ import annotations

import os
from typing import NamedTuple


class Launched(NamedTuple):
    """The place of this process, as the environment variables of torchrun give it.

    Args:
        rank: The number of this process among all, from 0.
        local_rank: Its number on this machine, from 0.
        processes: The number of all processes.
        local_processes: The number of processes on this machine.
    """

    rank: int
    local_rank: int
    processes: int
    local_processes: int


def launched() -> Launched | None:
    """Return the place of this process, or None if no launcher has started it.

    RANK=0 and WORLD_SIZE=1 alone may be left over: torchrun also sets TORCHELASTIC_RUN_ID.
    """
    try:
        rank, processes = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    except (KeyError, ValueError):
        return None
    if processes == 1 and "TORCHELASTIC_RUN_ID" not in os.environ:
        return None
    local_rank = int(os.environ.get("LOCAL_RANK", rank))
    return Launched(rank, local_rank, processes, int(os.environ.get("LOCAL_WORLD_SIZE", processes)))


def is_launched() -> bool:
    """Return whether this process is one of several."""
    here = launched()
    return here is not None and here.processes > 1


def is_first() -> bool:
    """Return whether this process reports: it is the first one, or the only one."""
    here = launched()
    return here is None or here.rank == 0
