"""Copy values from files into tensors, in blocks, with as many threads as torch uses but at most eight."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from threading import Lock, local

import torch
from torch import Tensor

from ..formats.finite import CACHE_BLOCK_BYTES, non_finite, part_scanner
from ..formats.stored import StoredTensor, memory_of
from ..formats.threads import serial_pool
from .reader import ByteProgress

_CHUNK = 32 * 2**20  # bytes per task of a thread
_MAX_THREADS = 8
_thread_local = local()


@dataclass(frozen=True)
class Copy:
    """A tensor to fill.

    Args:
        name: Name of the tensor.
        source: The values.
        target: The destination, on any device, in any dtype and layout.
        check_finite: Whether to check for NaN and Inf.
    """

    name: str
    source: StoredTensor
    target: Tensor
    check_finite: bool = False


def copy_all(copies: Sequence[Copy], on_progress: ByteProgress | None = None) -> set[str]:
    """Fill every target. Allocates at most one block of 512 KiB per thread (one whole tensor for unusual layouts).

    Args:
        copies: The tensors to fill.
        on_progress: Called with the bytes done and the total bytes.

    Returns:
        The names of the checked tensors that contain NaN or Inf.

    Raises:
        CheckpointError: A file cannot be read completely. Some targets may have been filled.
    """
    done, total, lock = 0, sum(copy.source.nbytes for copy in copies), Lock()
    with_non_finite: set[str] = set()

    def run(copy: Copy, start: int, size: int) -> None:
        nonlocal done
        bad = _copy_chunk(copy, start, size)
        with lock:
            done += size
            if bad:
                with_non_finite.add(copy.name)
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
        if not _in_chunks(copy):  # torch divides these among its own threads
            with torch.no_grad():
                copy.target.copy_(copy.source.mapped())
            if copy.check_finite and non_finite(copy.target):
                with_non_finite.add(copy.name)
            done += copy.source.nbytes
            if on_progress is not None:
                on_progress(done, total)
    return with_non_finite


def _starts(copy: Copy) -> range:
    return range(0, copy.source.nbytes, _CHUNK)


def _copy_chunk(copy: Copy, start: int, size: int) -> bool:
    """Fill part of a target. Return whether it contains NaN or Inf, which is checked while the values are in cache."""
    width, flat, bad = copy.source.dtype.itemsize, copy.target.detach().view(-1), False
    direct = copy.target.device.type == "cpu" and copy.target.dtype == copy.source.dtype
    if direct and not copy.check_finite:
        copy.source.read(memory_of(copy.target)[start : start + size], start)
        return False
    if not direct and not hasattr(_thread_local, "buffer"):
        _thread_local.buffer = torch.empty(CACHE_BLOCK_BYTES, dtype=torch.uint8)
    if direct:
        memory, has_non_finite = memory_of(copy.target), part_scanner(flat)
        for at in range(start, start + size, CACHE_BLOCK_BYTES):
            end = min(at + CACHE_BLOCK_BYTES, start + size)
            copy.source.read(memory[at:end], at)
            bad = bad or has_non_finite(at // width, end // width)
        return bad
    for at in range(start, start + size, CACHE_BLOCK_BYTES):
        count = min(CACHE_BLOCK_BYTES, start + size - at)
        target = flat[at // width : (at + count) // width]
        part = _thread_local.buffer[:count]
        copy.source.read(memory_of(part), at)
        target.copy_(part.view(copy.source.dtype))
        bad = bad or (copy.check_finite and non_finite(target))
    return bad


def _in_chunks(copy: Copy) -> bool:
    target = copy.target
    plain = target.is_contiguous() and not target.is_conj() and not target.is_neg()
    return plain and copy.source.streams
