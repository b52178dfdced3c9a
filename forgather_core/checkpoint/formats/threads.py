"""Thread pools whose threads compute independently."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from threading import Barrier

import torch


@contextmanager
def serial_pool(count: int, name: str) -> Iterator[ThreadPoolExecutor]:
    """Yield a thread pool whose torch operations are single-threaded, so that no inner thread waits on our processors.

    Args:
        count: Number of threads.
        name: Part of the thread names.
    """
    before, started = torch.get_num_threads(), Barrier(count + 1)

    def begin() -> None:
        torch.get_num_threads()  # a thread that has not called this takes the number that any thread set last
        torch.set_num_threads(1)
        started.wait()

    with ThreadPoolExecutor(count, thread_name_prefix=f"forgather-{name}", initializer=begin) as pool:
        for _ in range(count):
            pool.submit(int)
        started.wait()
        torch.set_num_threads(before)
        yield pool
