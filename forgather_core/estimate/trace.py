"""Run a program on fake tensors and record what it would allocate and compute.

torch's fake tensors go through the same operators as real tensors of their device, including the choice of an attention
kernel, autocast and recomputation. A dispatch mode records every result, and a weak reference to its storage records
when it is freed. Workspaces that a kernel allocates internally are not recorded.

Of a distributed model, one process runs. The operators and storages are those of its local tensors, and each collective
operation is recorded.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from math import prod
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode, is_traceable_wrapper_subclass_type
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from .collectives import Collective, collective_of
from .timeline import ACTIVATIONS, BUFFERS, GATHERED, GRADIENTS, REDUCED, WEIGHTS, Timeline

aten: Any = torch.ops.aten


class Trace(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Record allocations and FLOPs while active, within a `FakeTensorMode`.

    Args:
        held: Tensors that exist before, by kind; storages shared by tied tensors count once.
        length: Tokens per row. Fake tensors have no values: a program that reads an integer tensor gets this number.
        packed: Whether rows are packed. A program that reads a boolean tensor gets this value.
        axes: The axis of a mesh by the distance between the ranks of its groups; empty for a single device.
    """

    def __init__(
        self,
        held: Mapping[str, Iterable[Tensor]],
        length: int,
        *,
        packed: bool = False,
        axes: Mapping[int, str] | None = None,
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.kind = ACTIVATIONS  # of storages allocated from now on
        self._length, self._packed = length, packed
        self._held: dict[str, int] = {}
        # By address: number of the storage, 0 if it is empty, or None if it is held.
        self._known: dict[int, Any] = {}
        self._alive: dict[int, Any] = {}  # weak references, or the storage itself if it is held
        self._sizes: list[int] = []
        self._kinds: list[str] = []
        self._events: list[int] = []
        self._phases: dict[str, int] = {}
        self._flops: dict[tuple[str, str], int] = {}
        self._weights: set[int] = set()
        self._axes, self._collectives = axes or {}, list[Collective]()
        for kind, tensors in held.items():
            for tensor in tensors:
                storage = _storage(tensor)
                if storage._cdata not in self._known:
                    self._known[storage._cdata], self._alive[storage._cdata] = None, storage
                    self._held[kind] = self._held.get(kind, 0) + storage.nbytes()
                if kind in (WEIGHTS, BUFFERS):
                    self._weights.add(storage._cdata)

    def begin(self, phase: str) -> None:
        """Begin a phase."""
        self._phases[phase] = len(self._events)

    @contextmanager
    def allocating(self, kind: str) -> Iterator[None]:
        """Assign a kind to the storages allocated within the block."""
        before, self.kind = self.kind, kind
        try:
            yield
        finally:
            self.kind = before

    def mark(self, tensor: Tensor, kind: str) -> None:
        """Assign a kind to an existing tensor."""
        number = self._known.get(_storage(tensor)._cdata)
        if number:
            self._kinds[number - 1] = kind

    def timeline(self) -> Timeline:
        """Return the timeline recorded so far."""
        return Timeline(
            dict(self._held),
            tuple(self._sizes),
            tuple(self._kinds),
            tuple(self._events),
            dict(self._phases),
            dict(self._flops),
            tuple(self._collectives),
        )

    @contextmanager
    def following_resizes(self) -> Iterator[None]:
        """Record the storages that are resized within the block: FSDP frees and allocates gathered weights so."""
        resize = torch.UntypedStorage.resize_

        def recorded(storage: Any, size: int) -> Any:
            result = resize(storage, size)
            self._resized(storage)
            return result

        torch.UntypedStorage.resize_ = recorded  # type: ignore[method-assign, assignment]
        try:
            yield
        finally:
            torch.UntypedStorage.resize_ = resize  # type: ignore[method-assign]

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if any(map(is_traceable_wrapper_subclass_type, types)):
            return NotImplemented  # torch calls this method again with the local tensors
        if func._schema.name == "_c10d_functional::wait_tensor":
            return args[0]  # as the real operator does; torch's fake one returns a new tensor
        if func is aten._local_scalar_dense.default:
            return self._scalar(args[0].dtype)
        result = func(*args, **kwargs)
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor):
                self._record(leaf.untyped_storage())
        count = _flop_counter(func._overloadpacket)
        if count is not None:
            key = (next(reversed(self._phases), ""), self._operand_kind(func._overloadpacket, args))
            self._flops[key] = self._flops.get(key, 0) + count(*args, **kwargs, out_val=result)
        if self._axes:
            self._record_collective(func, args)
        return result

    def _record_collective(self, func: Any, args: Any) -> None:
        found = collective_of(func, args, self._axes, next(reversed(self._phases), ""))
        if found is not None:
            self._collectives.append(found)
        name = func._schema.name
        for tensors, kind in _COLLECTIVE_KINDS.get(name, ()):
            for tensor in tree_leaves(args[tensors]):
                self.mark(tensor, kind)

    def _scalar(self, dtype: torch.dtype) -> bool | int | float:
        if dtype == torch.bool:
            return self._packed
        return 1.0 if dtype.is_floating_point else self._length

    def _record(self, storage: Any) -> None:
        if storage._cdata not in self._known:
            self._watch(storage)
            self._allocate(storage, self.kind)

    def _watch(self, storage: Any) -> None:
        address = storage._cdata

        def freed(_: Any) -> None:
            del self._alive[address]
            if number := self._known.pop(address):
                self._events.append(-number)

        self._known[address], self._alive[address] = 0, weakref.ref(storage, freed)

    def _allocate(self, storage: Any, kind: str) -> None:
        self._sizes.append(storage.nbytes())
        self._kinds.append(kind)
        number = self._known[storage._cdata] = len(self._sizes)
        self._events.append(number)

    def _resized(self, storage: Any) -> None:
        number = self._known.get(storage._cdata, 0)
        if number is None:
            return
        if storage._cdata not in self._known:
            self._watch(storage)
        if number:
            self._events.append(-number)
            self._known[storage._cdata] = 0
        if storage.nbytes():
            self._allocate(storage, GATHERED)

    def _operand_kind(self, packet: Any, args: Any) -> str:
        if packet in (aten.mm, aten.addmm, aten.addmm_, aten._scaled_mm):
            return "weights"
        operands = [arg for arg in args if isinstance(arg, Tensor)]
        return "weights" if any(x.untyped_storage()._cdata in self._weights for x in operands) else "attention"


def _storage(tensor: Tensor) -> Any:
    """Return the storage of a tensor, or of the local part of a distributed one."""
    local: Tensor = getattr(tensor, "_local_tensor", tensor)
    return local.untyped_storage()


# FSDP's operators by name: the arguments whose storages have a kind.
_COLLECTIVE_KINDS: Mapping[str, tuple[tuple[int, str], ...]] = {
    "c10d::_allgather_base_": ((0, GATHERED), (1, GATHERED)),
    "c10d::_reduce_scatter_base_": ((0, REDUCED), (1, REDUCED)),
    "fsdp::chunk_cat": ((0, GRADIENTS),),  # the gradients of whole layers, before they are reduced
}


def _flop_counter(packet: Any) -> Callable[..., int] | None:
    known: Mapping[Any, Any] = flop_registry
    return _ADDITIONAL_FLOPS.get(packet) or known.get(packet)


def _attention_forward(query: Tensor, key: Tensor, value: Tensor, *_: Any, **__: Any) -> int:
    """Count two products, without a mask: query [B, H, T, K], key and value [B, G, S, K]."""
    pairs = prod(query.shape[:-1]) * key.shape[-2]
    return 2 * pairs * (query.shape[-1] + value.shape[-1])


def _attention_backward(_: Tensor, query: Tensor, key: Tensor, value: Tensor, *__: Any, **___: Any) -> int:
    """Count five products: the scores are recomputed."""
    pairs = prod(query.shape[:-1]) * key.shape[-2]
    return 2 * pairs * (3 * query.shape[-1] + 2 * value.shape[-1])


_ADDITIONAL_FLOPS: Mapping[Any, Callable[..., int]] = {  # missing in torch's own counter
    aten.addmm_: flop_registry[aten.addmm],
    aten._scaled_dot_product_flash_attention_for_cpu: _attention_forward,
    aten._scaled_dot_product_flash_attention_for_cpu_backward: _attention_backward,
}
