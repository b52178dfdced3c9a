"""Thread pools in which torch operations are single-threaded."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from threading import Barrier

import torch


@contextmanager
def serial_pool(count: int, name: str) -> Iterator[ThreadPoolExecutor]:
    """Yield a thread pool in which torch operations are single-threaded, so that threads do not compete for processors.

    Args:
        count: Number of threads.
        name: Part of the thread names.
    """
    before, started = torch.get_num_threads(), Barrier(count + 1)

    def start_worker() -> None:
        torch.get_num_threads()  # otherwise set_num_threads() of another thread would override the number set here
        torch.set_num_threads(1)
        started.wait()

    with ThreadPoolExecutor(count, thread_name_prefix=f"forgather-{name}", initializer=start_worker) as pool:
        for _ in range(count):
            pool.submit(int)
        started.wait()
        torch.set_num_threads(before)
        yield pool
