"""Selections by top-k: the router of a mixture of experts, or the keys of sparse attention.

A selection jumps where two scores are nearly equal, so two correct computations may select differently if they round
differently. And an expert computes as many tokens as are routed to it: the other tokens of a call decide on the order
of its sums.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from .model_under_test import ModelUnderTest
from .tolerance import rounding

_TOP_K = (torch.topk, Tensor.topk)


class Selections(TorchFunctionMode):
    """Record the indices that calls of top-k select.

    Attributes:
        found: The indices of each call.
        any: Whether there was a selection, by top-k or another function.
    """

    def __init__(self) -> None:
        super().__init__()
        self.found: list[Tensor] = []
        self.any = False

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if func in _TOP_K:
            self.found.append(result[1])
        self.any |= func in (*_TOP_K, torch.argmax, Tensor.argmax)
        self.any |= func in (torch.max, Tensor.max) and isinstance(result, tuple)
        return result


class _Repeat(TorchFunctionMode):
    """Select the recorded indices, with the values of the current scores."""

    def __init__(self, indices: list[Tensor]) -> None:
        super().__init__()
        self.indices = iter(indices)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if func not in _TOP_K:
            return result
        named = kwargs or {}
        scores, indices = named.get("input", args[0] if args else None), next(self.indices, None)
        if scores is None or indices is None or indices.dim() != scores.dim():
            return result  # another call than the recorded one
        dim = named.get("dim", args[2] if len(args) > 2 else -1)
        return type(result)((scores.gather(dim, indices), indices))


@contextmanager
def same_selections(indices: list[Tensor]) -> Iterator[None]:
    """Let the calls of top-k select these indices, in their order, whatever the scores are."""
    with _Repeat(indices):
        yield


def selects(subject: ModelUnderTest) -> bool:
    """Return whether the model selects by top-k, or by the position of a maximum."""
    model = subject.randomized_model(**subject.no_dropout)
    with torch.no_grad(), Selections() as selections:
        model(subject.tokens(1), use_cache=False)
    return bool(selections.any)


def order_of_sums(subject: ModelUnderTest) -> Callable[[Any], float]:
    """Return a function of a model: the error allowed between two calls whose tokens are computed alike.

    It is 0: the same operations on the same numbers give the same result. If the model selects by top-k, other tokens
    of the call change the order of sums.
    """
    return rounding if selects(subject) else lambda _: 0.0
