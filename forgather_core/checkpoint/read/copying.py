"""Values from files into tensors: a few megabytes at a time, by as many threads as torch has."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from threading import Lock, local

import torch
from torch import Tensor

from ..formats.finite import non_finite, part_scanner
from ..formats.stored import StoredTensor, memory_of
from ..formats.threads import serial_pool
from .reader import Progress

_CHUNK = 32 * 2**20  # bytes that one thread takes at once
_NEAR = 2**19  # bytes that stay in a processor's own memory for the next step; a multiple of every dtype's width
_MAX_THREADS = 8
_of_thread = local()


@dataclass(frozen=True)
class Copy:
    """One tensor to be filled.

    Args:
        name: Its name.
        source: The values.
        target: Where they go: any device, dtype and layout.
        look: Whether to look for numbers that are not finite.
    """

    name: str
    source: StoredTensor
    target: Tensor
    look: bool = False


def copy_all(copies: Sequence[Copy], on_progress: Progress | None = None) -> set[str]:
    """Fill every target. Beside the targets, memory for one chunk a thread is needed (one tensor, for odd layouts).

    Returns:
        The names of those that were looked into and are not finite.

    Raises:
        CheckpointError: A file cannot be read to its end. Some targets are filled then.
    """
    done, total, lock = 0, sum(copy.source.nbytes for copy in copies), Lock()
    damaged: set[str] = set()

    def run(copy: Copy, start: int, size: int) -> None:
        nonlocal done
        bad = _copy_chunk(copy, start, size)
        with lock:
            done += size
            if bad:
                damaged.add(copy.name)
            if on_progress is not None:
                on_progress(done, total)

    jobs = [(c, at, min(_CHUNK, c.source.nbytes - at)) for c in copies if _in_chunks(c) for at in _starts(c)]
    with serial_pool(max(1, min(_MAX_THREADS, torch.get_num_threads(), len(jobs))), "load") as pool:
        futures = [pool.submit(run, *job) for job in jobs]
        try:
            for future in futures:
                future.result()
        finally:
            for future in futures:
                future.cancel()
    for copy in copies:
        if not _in_chunks(copy):  # torch divides these among its threads by itself
            with torch.no_grad():
                copy.target.copy_(copy.source.mapped())
            if copy.look and non_finite(copy.target):
                damaged.add(copy.name)
            done += copy.source.nbytes
            if on_progress is not None:
                on_progress(done, total)
    return damaged


def _starts(copy: Copy) -> range:
    return range(0, copy.source.nbytes, _CHUNK)


def _copy_chunk(copy: Copy, start: int, size: int) -> bool:
    """Fill part of a target; whether it is not finite, which is found out while the numbers are near."""
    width, flat, bad = copy.source.dtype.itemsize, copy.target.detach().view(-1), False
    direct = copy.target.device.type == "cpu" and copy.target.dtype == copy.source.dtype
    if direct and not copy.look:
        copy.source.read(memory_of(copy.target)[start : start + size], start)
        return False
    if not direct and not hasattr(_of_thread, "buffer"):
        _of_thread.buffer = torch.empty(_NEAR, dtype=torch.uint8)
    if direct:
        memory, has_non_finite = memory_of(copy.target), part_scanner(flat)
        for at in range(start, start + size, _NEAR):
            end = min(at + _NEAR, start + size)
            copy.source.read(memory[at:end], at)
            bad = bad or has_non_finite(at // width, end // width)
        return bad
    for at in range(start, start + size, _NEAR):
        count = min(_NEAR, start + size - at)
        place = flat[at // width : (at + count) // width]
        part = _of_thread.buffer[:count]
        copy.source.read(memory_of(part), at)
        place.copy_(part.view(copy.source.dtype))
        bad = bad or (copy.look and non_finite(place))
    return bad


def _in_chunks(copy: Copy) -> bool:
    target = copy.target
    plain = target.is_contiguous() and not target.is_conj() and not target.is_neg()
    return plain and copy.source.streams
