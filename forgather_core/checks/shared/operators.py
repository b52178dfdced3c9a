"""Records of the operators that a model runs: products with weights, masks of attention, sizes of tensors."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry
from torch.utils.module_tracker import ModuleTracker

HIDDEN = -1e4  # additive masks hide keys with this value or less: the dtype's minimum, or -inf


class WeightProducts(TorchDispatchMode):
    """Count the FLOPs of the products of an activation and a weight.

    Products of two activations, as in attention, and of two weights are not counted.

    Args:
        model: The model whose parameters are the weights.

    Attributes:
        flops: FLOPs by the name of the parameter. A tied weight has one of its names.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.flops: Counter[str] = Counter()
        self._names = {_storage(parameter): name for name, parameter in model.named_parameters()}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Run an operator and count it."""
        result = func(*args, **(kwargs or {}))
        formula = flop_registry.get(func._overloadpacket)
        if formula is not None:
            operands = [one for one in tree_leaves(args) if isinstance(one, Tensor) and one.dim() >= 2]
            names = [self._names.get(_storage(one)) for one in operands]
            weights = [name for name in names if name is not None]
            if len(weights) == 1 and len(operands) > 1:
                self.flops[weights[0]] += formula(*args, **(kwargs or {}), out_val=result)
        return result


def _storage(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


def weight_flops(model: nn.Module, call: Callable[[], object]) -> Counter[str]:
    """Return the FLOPs of a call's products with weights, by the name of the parameter."""
    products = WeightProducts(model)
    with products:
        call()
    return products.flops


class SdpaMasks(TorchFunctionMode):
    """Record the calls of scaled_dot_product_attention, and those with a mask that is not needed.

    A mask is not needed if it hides the later keys and nothing else, as `is_causal` does, or no key at all from a
    single query. A bias is needed, and so is a mask of a sliding window, of padding or of documents.

    Attributes:
        calls: The number of calls.
        unneeded: For each call with such a mask, the module and the shape and dtype of the mask.
    """

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0
        self.unneeded: list[str] = []
        self._tracker = ModuleTracker()

    def __enter__(self) -> SdpaMasks:
        """Start recording."""
        self._tracker.__enter__()  # type: ignore[no-untyped-call]
        super().__enter__()  # type: ignore[no-untyped-call]
        return self

    def __exit__(self, *error: Any) -> None:
        """Stop recording."""
        super().__exit__(*error)  # type: ignore[no-untyped-call]
        self._tracker.__exit__(*error)  # type: ignore[no-untyped-call]

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Record a call and run it."""
        given = dict(kwargs or {})
        if func is torch.nn.functional.scaled_dot_product_attention:
            self.calls += 1
            mask = args[3] if len(args) > 3 else given.get("attn_mask")
            if mask is not None and _is_causal_only(mask):
                module = max(self._tracker.parents, key=len).partition(".")[2] or "the model"
                self.unneeded.append(f"{module}: {tuple(mask.shape)} of {mask.dtype}")
        return func(*args, **given)


def _is_causal_only(mask: Tensor) -> bool:
    """Return whether a mask [..., T, S] hides the keys after each query and no others; if T is 1, it hides none."""
    if mask.dtype == torch.bool:
        hidden = ~mask
    else:
        hidden = mask <= HIDDEN
        if bool((mask.masked_fill(hidden, 0) != 0).any()):
            return False  # a bias
    queries, keys = mask.shape[-2:]
    later = torch.ones(queries, keys, dtype=torch.bool).triu(keys - queries + 1)
    return bool((hidden == later).all())


class TensorsMade(TorchDispatchMode):
    """Record the tensors that operators return, if they have a dimension of some size and enough elements.

    Args:
        size: The size that one dimension must have.
        elements: The minimum number of elements.
        ignored: Shapes that are not recorded.

    Attributes:
        found: The operator and the shape of each such tensor.
    """

    def __init__(self, size: int, elements: int, ignored: Iterable[tuple[int, ...]]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.size, self.elements, self.ignored = size, elements, set(ignored)
        self.found: list[str] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Run an operator and record its results."""
        result = func(*args, **(kwargs or {}))
        for one in tree_leaves(result):
            large = isinstance(one, Tensor) and self.size in one.shape and one.numel() >= self.elements
            if large and tuple(one.shape) not in self.ignored:
                self.found.append(f"{func._overloadpacket} makes {tuple(one.shape)}")
        return result
