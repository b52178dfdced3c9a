"""Let one of several processes that fail report its error."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

from ..errors import ForgatherError
from .launched import launched
from .processes import is_lost_connection, lost_process

_GRACE = 5.0  # seconds until a launcher has ended the other processes of one that died
_END = 30.0


@contextmanager
def only_first_error() -> Iterator[None]:
    """Raise the error of the first process that fails. The other processes wait for the launcher to end them.

    A process that only lost its connection gives the launcher time to end it: the error of the process that died is
    the one to report.

    Raises:
        ForgatherError: Another process has died, and no launcher has ended this one.
    """
    try:
        yield
    except Exception as error:
        here = launched()
        if here is None or here.processes == 1:
            raise
        lost = is_lost_connection(error)
        if lost:
            time.sleep(_GRACE)
        if not _is_first_to_report():
            time.sleep(_END)
            os._exit(1)
        if lost and not isinstance(error, ForgatherError):
            raise lost_process(error) from error
        raise


def _is_first_to_report() -> bool:
    """Return whether no other process has reported an error, as the launcher's store knows."""
    import torch.distributed as dist

    try:
        address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
        limit = timedelta(seconds=_GRACE)
        store = dist.TCPStore(  # type: ignore[attr-defined]
            address, port, is_master=False, wait_for_workers=False, timeout=limit
        )
        attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")  # a launcher that restarts keeps its store
        return store.add(f"forgather/errors/{attempt}", 1) == 1
    except (KeyError, ValueError, RuntimeError):  # without a store, better twice than not at all
        return True
