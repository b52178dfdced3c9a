"""The value of `--parallel`: over how many processes a model is copied, sharded and split."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

from ..errors import ConfigurationError
from .spec import did_you_mean

KINDS = ("ddp", "fsdp", "tp")
_FORM = "expected ddp, fsdp, tp, or sizes such as fsdp=2,tp=2"
_FLAG = "--parallel"


@dataclass(frozen=True)
class ParallelSizes:
    """The sizes of a device mesh, one process for each device. Its axes are ddp, fsdp and tp, the last one innermost.

    Args:
        ddp: Copies of the model, each trained on other rows (data parallelism).
        fsdp: Processes among which the weights of a copy are sharded, each with rows of its own (FSDP2).
        tp: Processes that compute the same rows together, each with a part of every layer (tensor parallelism).
    """

    ddp: int = 1
    fsdp: int = 1
    tp: int = 1

    @property
    def processes(self) -> int:
        """The number of processes."""
        return self.ddp * self.fsdp * self.tp

    @property
    def data(self) -> int:
        """The number of parts of a batch: the processes of ddp and fsdp."""
        return self.ddp * self.fsdp

    def __str__(self) -> str:
        sizes = {kind: getattr(self, kind) for kind in KINDS}
        return ",".join(f"{kind}={size}" for kind, size in sizes.items() if size > 1) or f"ddp={self.ddp}"


def parallel_parts(text: str) -> dict[str, int | None]:
    """Return the kinds of parallelism in the value of `--parallel` with their sizes, None where it gives no size.

    Raises:
        ConfigurationError: The value is invalid.
    """
    parts: dict[str, int | None] = {}
    for part in text.split(","):
        kind, equals, size = (word.strip() for word in part.partition("="))
        if kind not in KINDS:
            raise ConfigurationError(f"{_FORM}; got '{text}'", hint=did_you_mean(kind, KINDS))
        if kind in parts:
            raise ConfigurationError(f"names {kind} twice: '{text}'", hint="remove one of them")
        if equals and not (size.isascii() and size.isdigit() and 0 < int(size) < 2**31):
            problem = f"must give {kind} a positive number of processes; got '{size}'"
            raise ConfigurationError(problem, hint=f"use {kind}=2, for example")
        parts[kind] = int(size) if equals else None
    if list(parts.values()).count(None) > 1:
        *_, last = parts
        problem = f"gives no sizes: '{text}'"
        raise ConfigurationError(problem, hint=f"use {text.replace(last, f'{last}=2')}, for example")
    return parts


def parallel_sizes(text: str, processes: int | None = None) -> ParallelSizes:
    """Return the sizes that `--parallel` names. The kind without a size gets the remaining processes.

    Args:
        text: The value of `--parallel`.
        processes: The number of processes; None if it follows from the sizes.

    Raises:
        ConfigurationError: The sizes do not multiply to the number of processes, or one is missing.
    """
    parts = parallel_parts(text)
    fixed = prod(size for size in parts.values() if size is not None)
    free = next((kind for kind, size in parts.items() if size is None), None)
    if processes is None and free is not None:
        problem = f"must give the number of processes of {free}; got '{text}'"
        raise ConfigurationError(problem, option=_FLAG, hint=f"use {free}=2, for example")
    if processes is not None and (processes % fixed if free is not None else processes != fixed):
        needed = f"a multiple of {fixed}" if free is not None else f"{fixed}"
        hint = f"use --nproc-per-node {fixed}, or other sizes"
        raise ConfigurationError(f"{text} requires {needed} processes, got {processes}", option=_FLAG, hint=hint)
    sizes = {kind: size for kind, size in parts.items() if size is not None}
    if free is not None and processes is not None:
        sizes[free] = processes // fixed
    return ParallelSizes(**sizes)
