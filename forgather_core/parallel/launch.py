"""Start several processes of a command on this machine, with torchrun's own engine."""

from __future__ import annotations

import logging
import os
import signal
import sys
import uuid
from collections.abc import Sequence
from tempfile import TemporaryDirectory

from ..errors import ForgatherError
from ..runtime.cores import usable_cores

INTERRUPTED = 130
_SHUTDOWN = 10  # seconds after which a process that does not end is killed


def launch(arguments: Sequence[str], processes: int) -> int:
    """Run `python ARGUMENTS` in several processes, and return the exit code: 0, or that of the first that fails.

    The processes have torchrun's environment variables (RANK, WORLD_SIZE, ...), and one share of the cores each. If one
    fails, or this process is interrupted, all are ended.

    Args:
        arguments: The arguments of Python.
        processes: The number of processes.

    Raises:
        ForgatherError: A signal has killed a process, for example because memory ran out.
    """
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, usable_cores() // processes)))
    with TemporaryDirectory(prefix="forgather-") as logs:  # torchrun leaves an empty one behind
        return _run(arguments, processes, logs)


def _run(arguments: Sequence[str], processes: int, logs: str) -> int:
    from torch.distributed.elastic.multiprocessing.api import DefaultLogsSpecs, SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    # The processes report their errors; torchrun's loggers, each with a level of its own, would repeat them.
    for name in [name for name in logging.root.manager.loggerDict if name.startswith("torch.distributed")]:
        logging.getLogger(name).setLevel(logging.CRITICAL)
    config = LaunchConfig(
        logs_specs=DefaultLogsSpecs(log_dir=logs),
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=processes,
        run_id=uuid.uuid4().hex,
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        local_addr="localhost",
        max_restarts=0,
        shutdown_timeout=_SHUTDOWN,
    )
    try:
        elastic_launch(config, sys.executable)(*arguments)
    except ChildFailedError as error:
        rank, failure = error.get_first_failure()
        if failure.exitcode >= 0:
            return failure.exitcode
        name = signal.Signals(-failure.exitcode).name
        hint = "see its output"
        if name == "SIGKILL":
            hint = "if memory ran out, use more processes, a smaller batch or shorter sequences"
        raise ForgatherError(f"process {rank} of {processes} was killed by {name}", hint=hint) from None
    except SignalException as error:
        return INTERRUPTED if error.sigval is signal.SIGINT else 128 + error.sigval
    return 0
