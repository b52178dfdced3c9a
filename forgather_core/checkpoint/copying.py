"""Values from files into tensors: a few megabytes at a time, by as many threads as torch has."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from threading import Lock, local

import torch
from torch import Tensor

from .reader import Progress
from .stored import FileTensor, StoredTensor, memory_of

_CHUNK = 16 * 2**20  # bytes that one thread takes at once
_CONVERTED = 2**20  # bytes that a thread converts at once; a multiple of every dtype's width
_MAX_THREADS = 8
_of_thread = local()


@dataclass(frozen=True)
class Copy:
    """One tensor to be filled.

    Args:
        source: The values.
        target: Where they go: any device, dtype and layout.
    """

    source: StoredTensor
    target: Tensor


def copy_all(copies: Sequence[Copy], on_progress: Progress | None = None) -> None:
    """Fill every target. Beside the targets, memory for one chunk a thread is needed (one tensor, for odd layouts).

    Raises:
        CheckpointError: A file cannot be read to its end. Some targets are filled then.
    """
    done, total, lock = 0, sum(copy.source.nbytes for copy in copies), Lock()

    def progress(size: int) -> None:
        nonlocal done
        with lock:
            done += size
            if on_progress is not None:
                on_progress(done, total)

    def run(job: tuple[Copy, int, int]) -> None:
        _copy_chunk(*job)
        progress(job[2])

    jobs = [(c, at, min(_CHUNK, c.source.nbytes - at)) for c in copies if _in_chunks(c) for at in _starts(c)]
    threads = max(1, min(_MAX_THREADS, torch.get_num_threads(), len(jobs)))
    with ThreadPoolExecutor(threads, thread_name_prefix="forgather-load") as pool:
        futures = [pool.submit(run, job) for job in jobs]
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
            progress(copy.source.nbytes)


def _starts(copy: Copy) -> range:
    return range(0, copy.source.nbytes, _CHUNK)


def _copy_chunk(copy: Copy, start: int, size: int) -> None:
    if copy.target.device.type == "cpu" and copy.target.dtype == copy.source.dtype:
        copy.source.read(memory_of(copy.target)[start : start + size], start)
        return
    width = copy.source.dtype.itemsize
    flat = copy.target.detach().view(-1)
    if not hasattr(_of_thread, "buffer"):
        _of_thread.buffer = torch.empty(_CONVERTED, dtype=torch.uint8)
    for at in range(start, start + size, _CONVERTED):
        part = _of_thread.buffer[: min(_CONVERTED, start + size - at)]
        copy.source.read(memory_of(part), at)
        flat[at // width : (at + part.numel()) // width].copy_(part.view(copy.source.dtype))


def _in_chunks(copy: Copy) -> bool:
    return copy.target.is_contiguous() and isinstance(copy.source, FileTensor)


def non_finite(tensor: Tensor) -> bool:
    """Whether a tensor of floating-point numbers has NaN or an infinity in it."""
    if not tensor.is_floating_point() or tensor.numel() == 0:
        return False
    if tensor.dtype.itemsize == 1:  # torch has no reductions over 8-bit floats
        return bool(~torch.isfinite(tensor.float()).all())
    low, high = torch.aminmax(tensor)
    return not bool(torch.isfinite(low) & torch.isfinite(high))
