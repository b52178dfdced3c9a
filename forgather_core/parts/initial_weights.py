"""Initial weights as a table: a pattern on parameter names, and the rule that fills what it matches.

A definition yields `(pattern, rule)` pairs; the first pattern found in a parameter's name wins. Each rule states the
standard deviation it promises, so that a test can hold it to that.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

Table = Iterable[tuple[str, "Rule"]]


@dataclass(frozen=True)
class Rule:
    """How a tensor is filled. `zero_row` is a row that is set to zero afterwards: the embedding of padding."""

    zero_row: int | None = None

    @property
    def std(self) -> float:
        """The standard deviation that the filled tensor has, apart from a zero row."""
        raise NotImplementedError

    def fill(self, tensor: Tensor) -> None:
        """Fill a tensor in place, in its own dtype and on its own device."""
        self.draw(tensor)
        if self.zero_row is not None:
            tensor[self.zero_row].zero_()

    def draw(self, tensor: Tensor) -> None:
        """Fill the whole tensor."""
        raise NotImplementedError


@dataclass(frozen=True)
class Constant(Rule):
    """Every element is `value`."""

    value: float = 0.0

    @property
    def std(self) -> float:
        return 0.0

    def draw(self, tensor: Tensor) -> None:
        tensor.fill_(self.value)

    def __str__(self) -> str:
        return f"{self.value:g}"


@dataclass(frozen=True)
class Normal(Rule):
    """N(0, scale^2)."""

    scale: float = 1.0

    @property
    def std(self) -> float:
        return self.scale

    def draw(self, tensor: Tensor) -> None:
        tensor.normal_(0.0, self.scale)

    def __str__(self) -> str:
        return f"normal, std {self.scale:.4g}" + ("" if self.zero_row is None else f", row {self.zero_row} zero")


@dataclass(frozen=True)
class TruncatedNormal(Rule):
    """N(0, scale^2), without what lies beyond `cut` times `scale` on either side."""

    scale: float = 1.0
    cut: float = 3.0

    @property
    def std(self) -> float:
        # Variance of the truncated normal: 1 - 2 c phi(c) / (2 Phi(c) - 1), with phi and Phi of the unit normal.
        density = math.exp(-0.5 * self.cut**2) / math.sqrt(2 * math.pi)
        inside = math.erf(self.cut / math.sqrt(2))
        return self.scale * math.sqrt(1 - 2 * self.cut * density / inside)

    def draw(self, tensor: Tensor) -> None:
        # Redrawing the few outliers is exact in every dtype; the inverse of the error function is not in bfloat16.
        tensor.normal_(0.0, self.scale)
        bound = self.cut * self.scale
        while (outside := tensor.abs() > bound).any():
            tensor[outside] = torch.empty_like(tensor[outside]).normal_(0.0, self.scale)

    def __str__(self) -> str:
        return f"truncated normal, std {self.scale:.4g}, cut at {self.cut:g} std"


def zeros() -> Rule:
    """All zero."""
    return Constant(value=0.0)


def ones() -> Rule:
    """All one."""
    return Constant(value=1.0)


def normal(*, std: float, zero_row: int | None = None) -> Rule:
    """Normal with mean 0; `zero_row` is the padding row of an embedding."""
    return Normal(scale=std, zero_row=zero_row)


def truncated_normal(*, std: float, cut: float = 3.0) -> Rule:
    """Normal with mean 0, cut at `cut` standard deviations on either side."""
    return TruncatedNormal(scale=std, cut=cut)
