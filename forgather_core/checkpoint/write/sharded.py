"""Save a model whose weights are sharded over processes: each writes whole files of its share, and the first commits.

A file of Hugging Face's format has whole tensors, so each process gathers the tensors of its own files, one after the
other; it holds at most the one that is being written and the next. All write at once, into the staging directory of
the first process. When all files are durable, it commits them as it does alone. An error of one process ends the save
in all of them, and the old checkpoint stays.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from ...errors import CheckpointError
from ...parallel.gather import Gather, Holders, Part, holders_of
from ...parallel.processes import Processes, agreed, portable
from ...parts.weight_pieces import is_sharded, local_part
from ..formats.layout import SAFETENSORS, Index, free_generation
from ..formats.safetensors_file import write_order
from ..formats.stored import LiveTensor, StoredTensor
from ..report import SaveReport
from .locking import saving_errors
from .save_job import Job, refuse_names
from .write import Written, metadata_of, shard_groups, write_shards


def save_sharded(
    make: Callable[[], Job], values: Mapping[str, Any], save: Callable[[Job], SaveReport], directory: Path
) -> SaveReport:
    """Save a model together with the other processes. All of them must call this, and return the same report.

    Args:
        make: Makes the save; its error is that of all processes.
        values: The state of the model, of which some tensors are sharded.
        save: Saves and commits; the first process calls it, and the others write the files that it orders.
        directory: The directory, on a file system that all processes share.

    Raises:
        CheckpointError: A process has this error, or has died; the old checkpoint is then intact.
    """
    processes, job, failure = Processes.of(values), None, None
    with agreed(processes):
        job = make()
    assert job is not None
    tensors = {name: tensor.values for name, tensor in job.tensors.items() if isinstance(tensor, LiveTensor)}
    writer = _Writer(processes, job, _holders(processes, tensors))
    outcome: SaveReport | Exception | None = None
    if processes.rank == 0:
        try:
            with saving_errors(directory):
                outcome = save(_FirstJob(**vars(job), writer=writer))
        except Exception as error:
            if writer.error is not None:  # all processes have it
                raise writer.error from None
            failure, outcome = error, portable(error)
        if not writer.started:
            processes.broadcast(None)
    elif (order := processes.broadcast(None)) is not None:
        writer.write(order)
    outcome = processes.broadcast(outcome)
    if isinstance(outcome, Exception):
        raise failure or outcome
    assert outcome is not None
    return outcome


def _holders(processes: Processes, values: Mapping[str, Tensor]) -> dict[str, Holders]:
    """Check that all processes have the same tensors, and return the holders of the parts of the sharded ones.

    Raises:
        CheckpointError: A process has another tensor, or none.
    """
    kinds = {name: (tuple(one.shape), str(one.dtype), is_sharded(one)) for name, one in values.items()}
    parts = {name: _part_of(name, one) for name, one in values.items() if is_sharded(one)}
    found = processes.gather((kinds, parts))  # all that follows is the same in all processes
    first = found[0][0]
    for rank, (there, _) in enumerate(found):
        for name in (*first, *there):
            if first.get(name) != there.get(name):
                problem = f"'{name}' differs between process 0 and process {rank}, or one of them lacks it"
                raise CheckpointError(problem, hint="build the same model in all processes")
        if list(first) != list(there):
            problem = f"the tensors of process {rank} have another order than those of process 0"
            raise CheckpointError(problem, hint="build the same model in all processes")
    shapes = {name: shape or (1,) for name, (shape, _, is_split) in first.items() if is_split}
    return holders_of(shapes, [held for _, held in found])


def _part_of(name: str, tensor: Any) -> Part:
    """Return the part of a sharded tensor that this process holds; an empty one if it is not in the mesh."""
    if tensor.device_mesh.get_coordinate() is None:
        return tuple((0, 0) for _ in tensor.shape) or ((0, 0),)
    return tuple(local_part(tensor, name)[1])


@dataclass(frozen=True)
class _Order:
    """The files that the first process asks the others to write.

    Args:
        directory: The staging directory.
        names: The names of the files.
    """

    directory: str
    names: tuple[str, ...]


@dataclass
class _Writer:
    """The part of a save that all processes do together.

    Args:
        processes: The processes.
        job: The save.
        holders: The processes that hold the parts of each sharded tensor.

    Attributes:
        started: Whether the other processes have got an order.
        error: The error that all processes have raised.
    """

    processes: Processes
    job: Job
    holders: Mapping[str, Holders]
    started: bool = False
    error: Exception | None = None

    def groups(self) -> list[list[str]]:
        """Return the names of the tensors of each file: at least one file for each process, if there are so many."""
        tensors = self.job.tensors
        limit = -(-sum(tensor.nbytes for tensor in tensors.values()) // self.processes.size)
        groups = shard_groups(tensors, min(limit, self.job.limit))
        while len(groups) > self.processes.size and limit < self.job.limit:
            limit += limit // 16 + 1
            groups = shard_groups(tensors, min(limit, self.job.limit))
        return groups

    def write(self, order: _Order) -> Written:
        """Write this process's files, and wait for the others.

        Raises:
            CheckpointError: A process has this error.
        """
        groups, job = self.groups(), self.job
        owners = _owners([sum(job.tensors[name].nbytes for name in group) for group in groups], self.processes.size)
        mine = [i for i, owner in enumerate(owners) if owner == self.processes.rank]
        sharded, schedule = self._schedule(groups, owners)
        gather = Gather(self.processes, sharded, self.holders, schedule)
        own, names = [groups[i] for i in mine], [order.names[i] for i in mine]
        tensors = {name: _writable(gather, name, job.tensors[name]) for group in own for name in group}
        directory = Path(order.directory)
        try:
            with saving_errors(directory):
                _refuse_missing(directory, self.processes.rank)
                written = write_shards(tensors, own, names, directory, job.format, job.on_progress)
        except Exception as error:
            self._stop(gather, error)
            raise
        self._stop(gather, None)
        parts = self.processes.gather(written)
        return self._merged(parts, order, groups)

    def _stop(self, gather: Gather, error: Exception | None) -> None:
        try:
            gather.finish(error)
        except Exception as shared:
            self.error = shared
            raise

    def _schedule(
        self, groups: Sequence[Sequence[str]], owners: Sequence[int]
    ) -> tuple[dict[str, Tensor], list[list[str]]]:
        """Return the sharded tensors, and their names in the order in which each process writes them."""
        tensors = self.job.tensors
        sharded = {
            name: tensor.values
            for name, tensor in tensors.items()
            if isinstance(tensor, LiveTensor) and _is_sharded(tensor)
        }
        schedule: list[list[str]] = [[] for _ in range(self.processes.size)]
        for group, owner in zip(groups, owners, strict=True):
            names = list(group)
            if self.job.format is SAFETENSORS:
                names = write_order({name: tensors[name].dtype for name in group})
            schedule[owner] += [name for name in names if name in sharded]
        return sharded, schedule

    def _merged(self, parts: Sequence[Written], order: _Order, groups: Sequence[Sequence[str]]) -> Written:
        checksums = {file: one for part in parts for file, one in part.index.checksums.items()}
        non_finite = [name for part in parts for name in part.index.metadata["non_finite"]]
        weight_map = {name: file for file, group in zip(order.names, groups, strict=True) for name in group}
        in_order = {file: checksums[file] for file in order.names}
        metadata = metadata_of(self.job.tensors, self.job.format, in_order, non_finite)
        return Written(order.names, Index(weight_map, metadata))


@dataclass(frozen=True, kw_only=True)
class _FirstJob(Job):
    """A save in the first process, which orders the others to write.

    Args:
        writer: The part that all processes do together.
    """

    writer: _Writer = field(repr=False)

    def write(self, directory: Path, unused_in: Path | None = None) -> Written:
        """Write the shards of all processes into `directory`."""
        refuse_names(self.tensors)
        count = len(self.writer.groups())
        names = self.format.names(count, free_generation(unused_in or directory, self.format, count))
        order = _Order(str(directory.absolute()), tuple(names))
        self.writer.started = True
        self.writer.processes.broadcast(order)
        return self.writer.write(order)


def _writable(gather: Gather, name: str, tensor: StoredTensor) -> StoredTensor:
    return _Gathered(gather, name, tensor) if _is_sharded(tensor) else tensor


class _Gathered(StoredTensor):
    """A sharded tensor that this process writes: all processes send their parts of it when it is read."""

    def __init__(self, gather: Gather, name: str, tensor: StoredTensor) -> None:
        super().__init__(tensor.shape, tensor.dtype)
        self._gather, self._name = gather, name

    def tensor(self) -> Tensor:
        """Return the whole tensor. It can be read once, in its turn."""
        return self._gather.next(self._name)


def _is_sharded(tensor: StoredTensor) -> bool:
    return isinstance(tensor, LiveTensor) and is_sharded(tensor.values)


def _owners(sizes: Sequence[int], count: int) -> list[int]:
    """Return the process that writes each file: the largest first, each to the process that has the least to write."""
    loads, owners = [0] * count, [0] * len(sizes)
    for index in sorted(range(len(sizes)), key=lambda i: -sizes[i]):
        owners[index] = min(range(count), key=loads.__getitem__)
        loads[owners[index]] += sizes[index]
    return owners


def _refuse_missing(directory: Path, rank: int) -> None:
    """Check that this process has the directory of the first one.

    Raises:
        CheckpointError: It has not.
    """
    if not directory.is_dir():
        problem = f"does not exist for process {rank}"
        raise CheckpointError(problem, file=directory, hint="save to a file system that all processes share")
