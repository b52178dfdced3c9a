"""The processes that act together: what one of them says, the others hear, errors included."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar, cast

import torch
from torch import Tensor

from ..errors import CheckpointError, ForgatherError, first_line
from ..parts.weight_pieces import is_sharded

T = TypeVar("T")
# gloo raises RuntimeError itself. Anywhere else than in an operation of torch.distributed, only its own form counts.
_LOST = re.compile(r"gloo|connection|peer|timed? ?out|reset|broken pipe|socket", re.IGNORECASE)
_GLOO = re.compile(r"\[[^]]*\bgloo\b[^]]*:\d+\]|connection (closed|reset) by peer", re.IGNORECASE)


class LostProcessError(CheckpointError):
    """Another process has died, does not answer, or has an error that it reports itself."""


@dataclass(frozen=True)
class Processes:
    """All processes of torch.distributed's default group.

    Args:
        rank: The number of this process.
        size: The number of processes.
        device: The device of the tensors that they exchange.
    """

    rank: int
    size: int
    device: torch.device

    @classmethod
    def of(cls, tensors: Mapping[str, Any]) -> Processes:
        """Return the processes over which tensors are sharded.

        Args:
            tensors: The tensors by name, at least one of them sharded.

        Raises:
            CheckpointError: The tensors are sharded over several kinds of devices.
        """
        import torch.distributed as dist

        kinds = {tensor.device_mesh.device_type for tensor in tensors.values() if is_sharded(tensor)}
        if len(kinds) != 1:
            problem = f"the weights are sharded over several kinds of devices: {', '.join(sorted(kinds))}"
            raise CheckpointError(problem, hint="use one device mesh")
        kind = kinds.pop()
        device = torch.device("cpu" if kind == "cpu" else f"{kind}:{torch.accelerator.current_device_index()}")
        return cls(dist.get_rank(), dist.get_world_size(), device)

    def broadcast(self, value: T) -> T:
        """Return the value of the first process in every process."""
        import torch.distributed as dist

        values = [value]
        with connected():
            dist.broadcast_object_list(values, src=0, device=self.device)
        return values[0]

    def first(self, function: Callable[[], T]) -> T:
        """Call a function in the first process, and return its result, or raise an error, in every process.

        Raises:
            ForgatherError: The first process has this error.
            LostProcessError: In another process, if the first one has an error that is no ForgatherError, or has died.
        """
        outcome: T | Exception | None = None
        if self.rank == 0:
            try:
                outcome = function()
            except Exception as error:
                self.broadcast(portable(error))
                raise
        outcome = self.broadcast(outcome)
        if isinstance(outcome, Exception):
            raise outcome
        return cast(T, outcome)

    def gather(self, value: T) -> list[T]:
        """Return the values of all processes, in the order of their ranks, in every process."""
        import torch.distributed as dist

        values: list[Any] = [None] * self.size
        with connected():
            dist.all_gather_object(values, value)
        return values

    def agree(self, error: Exception | None = None) -> None:
        """Wait until all processes are here, and raise an error in all of them if one has an error.

        Args:
            error: The error of this process, which it raises.

        Raises:
            ForgatherError: The first process that has an error has this one.
            LostProcessError: Another process has an error that is no ForgatherError, or has died.
        """
        import torch.distributed as dist

        failed = torch.tensor(int(error is not None), device=self.device)
        with connected():
            dist.all_reduce(failed, op=dist.ReduceOp.MAX)
        if failed.item():
            found = self.gather(portable(error))
            raise error or next(one for one in found if one is not None)

    def exchange(self, sends: list[tuple[Tensor, int]], receives: list[tuple[Tensor, int]]) -> None:
        """Send tensors to other processes, and receive tensors from them. Every process must call this.

        Args:
            sends: Contiguous tensors of bytes on `device`, each with the rank that gets it.
            receives: Contiguous tensors of bytes on `device` to fill, each with the rank that sends it. Two processes
                list the tensors that they exchange in the same order.
        """
        import torch.distributed as dist

        operations = [dist.P2POp(dist.isend, tensor, peer) for tensor, peer in sends]
        operations += [dist.P2POp(dist.irecv, tensor, peer) for tensor, peer in receives]
        if operations:
            with connected():
                for work in dist.batch_isend_irecv(operations):
                    work.wait()


@contextmanager
def agreed(processes: Processes | None) -> Iterator[None]:
    """Run a block without collective operations, and raise an error in all processes if it fails in one.

    Args:
        processes: The processes; None if there is only this one.
    """
    error = None
    try:
        yield
    except Exception as failure:
        error = failure
    if processes is not None:
        processes.agree(error)
    elif error is not None:
        raise error


@contextmanager
def connected() -> Iterator[None]:
    """Report a lost process as an error of one line.

    Raises:
        CheckpointError: Another process has died, or does not answer.
    """
    try:
        yield
    except RuntimeError as error:  # torch.distributed's errors are subclasses; gloo raises the class itself
        if not isinstance(error, _lost_errors()) and not _LOST.search(str(error)):
            raise
        raise lost_process(error) from error


def lost_process(error: BaseException) -> LostProcessError:
    """Return the error of one line for a lost connection."""
    problem = f"another process has died or does not answer: {first_line(error)}"
    return LostProcessError(problem, hint="see its output")


def is_lost_connection(error: BaseException) -> bool:
    """Return whether an error only says that another process has died or does not answer."""
    if isinstance(error, ForgatherError):
        return isinstance(error, LostProcessError)
    return isinstance(error, _lost_errors()) or (isinstance(error, RuntimeError) and bool(_GLOO.search(str(error))))


def _lost_errors() -> tuple[type[Exception], ...]:
    import torch.distributed as dist

    return dist.DistBackendError, dist.DistNetworkError, dist.DistStoreError


def portable(error: Exception | None) -> Exception | None:
    """Return an error for the other processes; they leave it to this process to report one that is a bug."""
    if error is None or isinstance(error, ForgatherError):
        return error
    return LostProcessError(f"another process failed: {type(error).__name__}: {first_line(error)}")
