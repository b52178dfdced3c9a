"""Draw initial weights piece by piece: each value depends on the base seed, the parameter's name and its index.

A piece is a fixed run of consecutive elements of the flattened parameter. It is drawn in float32 on the CPU, with
its own generator, and rounded once to the parameter's dtype. Therefore a weight does not depend on the device, the
number of threads, the order of the parameters or their sharding, and on the dtype only by rounding.
"""

import hashlib
import math
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from threading import Lock
from typing import Any, Protocol

import torch
from torch import Generator, Tensor

# torch's generator uses 32 bits of its seed. With pieces of this size, two of the 5,000 pieces of a model with 1B
# parameters share a seed in one of 300 models; with smaller pieces this would be more frequent.
PIECE = 1 << 18
RUN = 1 << 15  # elements per call: fits the CPU's cache, and torch starts no threads
MIN_THREADED = 1 << 18  # drawing fewer elements takes less time than starting threads

Shape = Sequence[int]
Task = Callable[[], object]
Box = list[tuple[int, int]]  # offset and size of a shard, for each dimension


class Sampler(Protocol):
    """Interface of a rule; documented in `initial_weights.Rule`."""

    @property
    def zero_row(self) -> int | None: ...
    @property
    def random(self) -> bool: ...
    @property
    def needs_whole(self) -> bool: ...
    def check(self, shape: Shape) -> None: ...
    def sample(self, elements: Tensor, shape: Shape, start: int, generator: Generator) -> None: ...
    def draw(self, tensor: Tensor) -> None: ...


@dataclass(frozen=True)
class Fill:
    """A parameter to fill.

    Args:
        rule: The rule that fills it.
        tensor: The parameter, of any dtype, on any device. For a `DTensor`, the local shard is filled.
        name: Its name in the full model, which determines its values.
    """

    rule: Sampler
    tensor: Tensor
    name: str


def draw_seed() -> int:
    """Take a base seed from torch's global generator of the CPU."""
    drawn = torch.randint(2**63 - 1, (), dtype=torch.int64, device="cpu")
    return int(drawn) if type(drawn) is Tensor else 0  # fake tensors have no values


def piece_seed(seed: int, name: str, piece: int) -> int:
    """Return the 32-bit seed of a piece's generator."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{piece}/{name}".encode()).digest()[:4], "little")


def fill_slice(rule: Sampler, out: Tensor, shape: Shape, start: int, *, seed: int, name: str) -> None:
    """Fill a part of a parameter with the values that it has in the full parameter.

    Args:
        rule: A rule that overrides `sample`.
        out: [n], any floating-point dtype and device: consecutive elements of the flattened parameter.
        shape: The shape of the full parameter.
        start: The index of the first of these elements in the flattened parameter.
        seed: The base seed.
        name: The parameter's name.
    """
    size, end = math.prod(shape), start + len(out)
    buffer = torch.empty(RUN, dtype=torch.float32, device="cpu")
    for piece in range(start // PIECE, -(-end // PIECE)):
        generator = Generator("cpu").manual_seed(piece_seed(seed, name, piece))
        for first in range(piece * PIECE, min((piece + 1) * PIECE, end), RUN):
            run = buffer[: min(RUN, size - first)]
            rule.sample(run, shape, first, generator)
            _zero_row(rule, run, shape, first)
            lo, hi = max(start, first), min(end, first + len(run))
            if lo < hi:
                out[lo - start : hi - start].copy_(run[lo - first : hi - first])


def _zero_row(rule: Sampler, run: Tensor, shape: Shape, first: int) -> None:
    if rule.zero_row is None:
        return
    width, row = math.prod(shape[1:]), rule.zero_row % shape[0]
    lo, hi = max(row * width, first), min((row + 1) * width, first + len(run))
    if lo < hi:
        run[lo - first : hi - first].zero_()


def fill_all(fills: Sequence[Fill], seed: int | None = None) -> None:
    """Fill parameters, on as many threads as torch has (`torch.get_num_threads()`).

    Args:
        fills: The parameters, which must not share memory.
        seed: The base seed. None takes one from torch's global generator if a rule is random. Processes of a device
            mesh use the seed of the mesh's first process, and must call this together.

    Raises:
        ValueError: A rule cannot fill its parameter, or a placement is not supported.
    """
    for fill in fills:
        try:
            fill.rule.check(fill.tensor.shape)
        except ValueError as error:
            raise ValueError(f"'{fill.name}' {tuple(fill.tensor.shape)}: {error}" if fill.name else error) from None
    if any(fill.rule.random for fill in fills):
        seed = _shared_seed(draw_seed() if seed is None else seed, fills)
    with torch.no_grad():
        whole = [fill for fill in fills if _needs_whole(fill)]
        pieces = [fill for fill in fills if not _needs_whole(fill)]
        size = sum(fill.tensor.numel() for fill in pieces)
        workers = torch.get_num_threads() if size > MIN_THREADED else 1
        _run(_tasks(pieces, seed or 0), workers)
        for fill in whole:
            _fill_whole(fill, seed or 0)


def _run(tasks: Iterator[Task], workers: int) -> None:
    """Run tasks on this thread and others; after an error no further task starts."""
    lock = Lock()
    inference = torch.is_inference_mode_enabled()  # both modes are local to a thread

    def work() -> None:
        with torch.inference_mode(inference), torch.no_grad():
            while True:
                with lock:
                    task = next(tasks, None)
                if task is None:
                    return
                try:
                    task()
                except BaseException:
                    with lock:
                        for _ in tasks:
                            pass
                    raise

    if workers == 1:
        work()
        return
    with ThreadPoolExecutor(workers - 1) as pool:
        others = [pool.submit(work) for _ in range(workers - 1)]
        work()
    for other in others:
        other.result()


def _tasks(fills: Sequence[Fill], seed: int) -> Iterator[Task]:
    """Yield tasks of about one piece each, for all parameters."""
    for fill in fills:
        shape = tuple(fill.tensor.shape) or (1,)
        local, box = local_part(fill.tensor, fill.name)
        if 0 in local.shape:
            continue
        local = local.view(1) if local.dim() == 0 else local
        part = partial(fill_slice, fill.rule, shape=shape, seed=seed, name=fill.name)
        width = math.prod(shape[1:])
        if local.is_contiguous() and box[1:] == [(0, n) for n in shape[1:]]:
            flat, offset = local.view(-1), box[0][0] * width
            for first in range(offset - offset % PIECE, offset + len(flat), PIECE):
                lo, hi = max(first, offset), min(first + PIECE, offset + len(flat))
                yield partial(part, flat[lo - offset : hi - offset], start=lo)
        else:
            step = max(1, PIECE // width)
            for row in range(0, len(local), step):
                yield partial(_fill_rows, part, local[row : row + step], shape, box, row)


def _fill_rows(part: Callable[..., None], out: Tensor, shape: Shape, box: Box, row: int) -> None:
    """Fill rows of a shard or of a strided tensor: draw full rows and keep the local part."""
    rows = torch.empty((len(out), *shape[1:]), dtype=torch.float32, device="cpu")
    part(rows.view(-1), start=(box[0][0] + row) * math.prod(shape[1:]))
    out.copy_(rows[(slice(None), *(slice(offset, offset + size) for offset, size in box[1:]))])


def _needs_whole(fill: Fill) -> bool:
    """Return whether a parameter cannot be filled in pieces: its rule or tensor subclass requires the full tensor."""
    return fill.rule.needs_whole or not (_is_plain(fill.tensor) or is_sharded(fill.tensor))


def _fill_whole(fill: Fill, seed: int) -> None:
    from torch._subclasses.fake_tensor import FakeTensor

    if isinstance(fill.tensor, FakeTensor):
        return  # a fake tensor has no storage
    shape = tuple(fill.tensor.shape)
    whole = torch.empty(shape, dtype=torch.float32, device="cpu")
    if not fill.rule.needs_whole:
        fill_slice(fill.rule, whole.view(-1), shape or (1,), 0, seed=seed, name=fill.name)
    else:
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(piece_seed(seed, fill.name, 0))
            fill.rule.draw(whole)
        if whole.numel():
            _zero_row(fill.rule, whole.view(-1), shape or (1,), 0)
    if is_sharded(fill.tensor):
        local, box = local_part(fill.tensor, fill.name)
        local.copy_(whole[tuple(slice(offset, offset + size) for offset, size in box)])
    else:
        fill.tensor.detach().copy_(whole)


def _is_plain(tensor: Tensor) -> bool:
    return type(tensor.detach()) is Tensor


def is_sharded(tensor: Any) -> bool:
    """Return whether a tensor is a `DTensor`, of which each process has a part."""
    return hasattr(tensor, "device_mesh") and hasattr(tensor, "placements")


def local_part(parameter: Tensor, name: str) -> tuple[Tensor, Box]:
    """Return the local part of a parameter, and its position in the full parameter.

    Args:
        parameter: A parameter or buffer. One that is not sharded is its own local part.
        name: Its name, for errors.

    Raises:
        ValueError: A placement is neither `Shard` nor `Replicate`, or the parts are not those of `distribute_tensor`.
    """
    tensor: Any = parameter.detach()
    if not is_sharded(tensor):
        return tensor, _whole(tensor.shape)
    local = tensor.to_local()
    if (here := tensor.device_mesh.get_coordinate()) is None:  # this process is not in the mesh
        return local.new_empty(0), _whole(tensor.shape)
    try:
        box = box_at(tensor.shape, tensor.device_mesh.shape, tensor.placements, here)
    except ValueError as error:
        raise ValueError(f"'{name}' {error}") from None
    expected, found = tuple(size for _, size in box), tuple(local.shape)
    if local.dim() and found != expected:
        raise ValueError(f"'{name}' has a local part {found} instead of {expected}; split it with distribute_tensor")
    return local, box


def box_at(shape: Shape, sizes: Sequence[int], placements: Sequence[Any], here: Sequence[int]) -> Box:
    """Return the part of a tensor that a process of a device mesh holds.

    Args:
        shape: The shape of the full tensor.
        sizes: The number of processes along each axis of the mesh.
        placements: For each axis `Shard`, `Replicate`, or FSDP2's `_StridedShard`, which divides parts of later axes.
        here: The coordinate of the process in the mesh.

    Raises:
        ValueError: A placement is another one.
    """
    kinds = [type(placement).__name__ for placement in placements]
    strided = [axis for axis, kind in enumerate(kinds) if kind == "_StridedShard"]
    box, parts = _whole(shape), [1] * max(len(shape), 1)
    for axis in [*(axis for axis in range(len(kinds)) if axis not in strided), *reversed(strided)]:
        placement = placements[axis]
        if kinds[axis] == "Shard" or (axis in strided and placement.split_factor == parts[placement.dim]):
            offset, size = box[placement.dim]
            chunk = -(-size // sizes[axis])
            first = min(chunk * here[axis], size)
            box[placement.dim] = (offset + first, min(chunk, size - first))
            parts[placement.dim] *= sizes[axis]
        elif kinds[axis] != "Replicate":
            raise ValueError(f"is sharded as {placements}, which is not supported; fill it before sharding it")
    return box


def _whole(shape: Shape) -> Box:
    return [(0, n) for n in shape] or [(0, 1)]


def _shared_seed(seed: int, fills: Sequence[Fill]) -> int:
    """Return the seed of the first process of each device mesh among the parameters."""
    meshes = {id(mesh): mesh for fill in fills if (mesh := getattr(fill.tensor, "device_mesh", None)) is not None}
    if not meshes:
        return seed
    import torch.distributed as dist

    for mesh in meshes.values():
        if mesh.get_coordinate() is None:
            continue
        shared = torch.tensor(seed, dtype=torch.int64, device=mesh.device_type)
        for axis in range(mesh.ndim):
            group = mesh.get_group(axis)
            dist.broadcast(shared, src=dist.get_global_rank(group, 0), group=group)
        seed = int(shared)
    return seed
