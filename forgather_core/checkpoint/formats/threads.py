"""Threads that compute side by side, each by itself."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from threading import Barrier

import torch


@contextmanager
def serial_pool(count: int, name: str) -> Iterator[ThreadPoolExecutor]:
    """A pool in which no operation of torch is divided among further threads, whose waiting would take our processors.

    Args:
        count: How many threads.
        name: What they are called.
    """
    before, started = torch.get_num_threads(), Barrier(count + 1)

    def begin() -> None:
        torch.get_num_threads()  # a thread that has not asked takes the number that was set last, by whomever
        torch.set_num_threads(1)
        started.wait()

    with ThreadPoolExecutor(count, thread_name_prefix=f"forgather-{name}", initializer=begin) as pool:
        for _ in range(count):
            pool.submit(int)
        started.wait()
        torch.set_num_threads(before)
        yield pool
