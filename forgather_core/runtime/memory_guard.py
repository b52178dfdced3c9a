"""Refuse work that needs more memory than is free, before the machine swaps.

Cheap upper bounds are compared first. Tighter ones are computed only if those exceed the free memory.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..errors import BuildError
from .out_of_memory import format_bytes

_CGROUPS = Path("/sys/fs/cgroup")
_NO_LIMIT = 2**60  # cgroup v1 reports a number near 2^63 if there is no limit
_NOT_SIZES = ("_token_id", "vocab_size", "max_position_embeddings", "seed")


def refuse_too_large(work: str, device: str, needs: Sequence[Callable[[], int]]) -> None:
    """Refuse work that does not fit into free memory.

    Args:
        work: The work, as the subject of a sentence.
        device: Device of the work: `cpu`, `cuda`, `cuda:N` or `mps`.
        needs: Functions that return the required bytes: upper bounds, each tighter and slower than the previous one,
            then the estimate. The work is accepted as soon as one of them fits.

    Raises:
        BuildError: None of them fits into the free memory.
    """
    free = free_memory(device)
    if free is None:
        return
    for need in needs:
        needed = need()
        if needed <= free:
            return
    problem = f"{work} needs about {format_bytes(needed)}, and {format_bytes(free)} is free on {device}"
    raise BuildError(problem, hint="choose a smaller model or batch, or add --force to try anyway")


def free_memory(device: str) -> int | None:
    """Return the bytes that this process can still allocate on a device; None if that is unknown."""
    kind = device.partition(":")[0]
    if kind == "cpu":
        return min((limit for limit in _free_on_host() if limit is not None), default=None)
    import torch

    if kind == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return int(free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device))
    if kind == "mps":
        return max(0, int(torch.mps.recommended_max_memory() - torch.mps.driver_allocated_memory()))
    return None


def _free_on_host() -> Iterator[int | None]:
    yield _available()
    yield from _free_in_groups()
    yield _free_in_rlimit()


def _available() -> int | None:
    """Return the bytes that the system can allocate without swapping."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        return 1024 * int(next(line for line in lines if line.startswith("MemAvailable")).split()[1])
    except (OSError, StopIteration, ValueError):
        pass
    try:  # on other systems, the total memory: still an upper bound
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, OSError, ValueError):
        return None


def _free_in_groups() -> Iterator[int]:
    """Yield the free bytes within the memory limits of this process's cgroup and of its parents."""
    try:
        lines = Path("/proc/self/cgroup").read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        return
    for line in lines:
        _, controllers, path = [*line.split(":", 2), "", ""][:3]
        if not controllers:
            root, names = _CGROUPS, ("memory.max", "memory.current", "inactive_file")
        elif "memory" in controllers.split(","):
            root = _CGROUPS / "memory"
            names = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
        else:
            continue
        inside = [part for part in path.split("/") if part not in ("", "..")]
        for depth in range(
            len(inside), -1, -1
        ):  # in a container the path may be the path on the host, so the root is read too
            if (free := _free_in(root.joinpath(*inside[:depth]), *names)) is not None:
                yield free


def _free_in(group: Path, limit: str, usage: str, cached: str) -> int | None:
    try:
        most = int((group / limit).read_text(encoding="ascii"))  # "max" is not a number
        used = int((group / usage).read_text(encoding="ascii"))
        rows = (line.split() for line in (group / "memory.stat").read_text(encoding="ascii").splitlines())
        reclaimable = int(next((value for name, value in rows if name == cached), 0))
    except (OSError, ValueError):
        return None
    return max(0, most - used + reclaimable) if most < _NO_LIMIT else None


def _free_in_rlimit() -> int | None:
    """Return the free bytes within the limit of `ulimit -v`."""
    try:
        import resource

        limit = resource.getrlimit(resource.RLIMIT_AS)[0]
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
    except (ImportError, OSError, ValueError, IndexError):
        return None
    return max(0, limit - pages * resource.getpagesize()) if limit != resource.RLIM_INFINITY else None


def most_parameters(config: Mapping[str, Any]) -> int:
    """Return a generous upper bound of a model's parameter count, from the numbers in its configuration.

    Args:
        config: The configuration as plain data.
    """
    width, layers = _width(config), _number(config, "num_hidden_layers")
    experts = max([1, *(value for name, value in _numbers(config) if "expert" in name)])
    tables = 4 * _number(config, "vocab_size") + 2 * _number(config, "max_position_embeddings")
    return width * (16 * width * layers * experts + tables)


def most_activations(config: Mapping[str, Any], rows: int, length: int) -> int:
    """Return a generous upper bound of the elements of the activations in a training step.

    Args:
        config: The configuration as plain data.
        rows: Number of rows in the batch.
        length: Tokens per row.
    """
    layers, heads = _number(config, "num_hidden_layers"), _number(config, "num_attention_heads")
    per_layer = 48 * _width(config) + 6 * heads * length  # attention scores of every head, if they are stored
    return rows * length * (layers * per_layer + 6 * _number(config, "vocab_size"))


def _numbers(config: Mapping[str, Any]) -> Iterator[tuple[str, int]]:
    yield from ((name, value) for name, value in config.items() if type(value) is int and value > 0)


def _number(config: Mapping[str, Any], name: str) -> int:
    return next((value for key, value in _numbers(config) if key == name), 1)


def _width(config: Mapping[str, Any]) -> int:
    """Return an upper bound of a layer's width: the largest number in the configuration that may be a size."""
    heads = _number(config, "num_attention_heads") * _number(config, "head_dim")
    return max([heads, 1, *(value for name, value in _numbers(config) if not name.endswith(_NOT_SIZES))])
