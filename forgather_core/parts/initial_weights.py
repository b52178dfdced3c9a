"""Initial weights as a table: a pattern on parameter names, and the rule that fills what it matches.

A definition yields `(pattern, rule)` pairs; the first pattern found in a parameter's name wins. Each rule states the
standard deviation it promises, so that a test can hold it to that. Weights of linear layers are [fan_out, fan_in].

Random numbers are drawn in float32 and rounded once into the dtype of the tensor, so that a seed means the same weights
in every dtype: torch's own in bfloat16 are no faster, and its uniform ones are off by half a step.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

Table = Iterable[tuple[str, "Rule"]]
Shape = Sequence[int]
Draw = Callable[[Tensor], object]  # fills a float32 tensor in place

# Numbers at a time. On the CPU they stay in its cache, and torch starts no threads, which would wait for one another.
_PIECE_ON_CPU, _PIECE = 1 << 15, 1 << 24


@dataclass(frozen=True)
class Rule:
    """How a tensor is filled. `zero_row` is a row that is set to zero afterwards: the embedding of padding."""

    zero_row: int | None = None

    def std(self, shape: Shape) -> float:
        """The standard deviation that a tensor of this shape has once filled, apart from a zero row."""
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
class Values(Rule):
    """The values given, one for each element; a single one for all."""

    values: tuple[float, ...] = (0.0,)

    def std(self, shape: Shape) -> float:
        mean = sum(self.values) / len(self.values)
        return math.sqrt(sum((value - mean) ** 2 for value in self.values) / len(self.values))

    def draw(self, tensor: Tensor) -> None:
        if len(self.values) == 1:
            tensor.fill_(self.values[0])
        else:
            tensor.copy_(torch.tensor(self.values, dtype=torch.float32))

    def __str__(self) -> str:
        return ", ".join(f"{value:.4g}" for value in self.values)


@dataclass(frozen=True)
class Normal(Rule):
    """N(0, scale^2)."""

    scale: float = 1.0

    def std(self, shape: Shape) -> float:
        return self.scale

    def draw(self, tensor: Tensor) -> None:
        fill_random(tensor, lambda drawn: drawn.normal_(0.0, self.scale))

    def __str__(self) -> str:
        return f"normal, std {self.scale:.4g}" + ("" if self.zero_row is None else f", row {self.zero_row} zero")


@dataclass(frozen=True)
class TruncatedNormal(Rule):
    """N(0, scale^2), without what lies beyond `cut` times `scale` on either side."""

    scale: float = 1.0
    cut: float = 3.0

    def std(self, shape: Shape) -> float:
        # Variance of the truncated normal: 1 - 2 c phi(c) / (2 Phi(c) - 1), with phi and Phi of the unit normal.
        density = math.exp(-0.5 * self.cut**2) / math.sqrt(2 * math.pi)
        inside = math.erf(self.cut / math.sqrt(2))
        return self.scale * math.sqrt(1 - 2 * self.cut * density / inside)

    def draw(self, tensor: Tensor) -> None:
        bound = self.cut * self.scale

        def draw(drawn: Tensor) -> None:
            outside = (drawn.normal_(0.0, self.scale).abs() > bound).nonzero(as_tuple=True)
            while len(outside[0]):  # few: drawn again, until none is left
                again = drawn.new_empty(len(outside[0])).normal_(0.0, self.scale)
                drawn[outside] = again
                outside = tuple(index[again.abs() > bound] for index in outside)

        fill_random(tensor, draw)

    def __str__(self) -> str:
        return f"truncated normal, std {self.scale:.4g}, cut at {self.cut:g} std"


@dataclass(frozen=True)
class XavierNormal(Rule):
    """N(0, gain^2 * 2 / (fan_in + fan_out)) (Glorot and Bengio 2010, eq. 12)."""

    gain: float = 1.0

    def std(self, shape: Shape) -> float:
        fan_out, fan_in = shape
        return self.gain * math.sqrt(2 / (fan_in + fan_out))

    def draw(self, tensor: Tensor) -> None:
        std = self.std(tensor.shape)
        fill_random(tensor, lambda drawn: drawn.normal_(0.0, std))

    def __str__(self) -> str:
        return f"Xavier normal, gain {self.gain:.4g}"


@dataclass(frozen=True)
class FanInUniform(Rule):
    """U(-1/sqrt(fan_in), 1/sqrt(fan_in))."""

    def std(self, shape: Shape) -> float:
        return math.sqrt(1 / (3 * shape[1]))

    def draw(self, tensor: Tensor) -> None:
        bound = tensor.shape[1] ** -0.5
        fill_random(tensor, lambda drawn: drawn.uniform_(-bound, bound))

    def __str__(self) -> str:
        return "uniform, +-1/sqrt(fan_in)"


def fill_random(tensor: Tensor, draw: Draw) -> None:
    """Fill a tensor with random numbers, a piece at a time: nothing of its size is needed beside it."""
    pieces: Sequence[Tensor] = (tensor,)
    if type(tensor.detach()) is Tensor and tensor.is_contiguous():  # a DTensor is drawn as a whole
        pieces = tensor.detach().view(-1).split(_PIECE_ON_CPU if tensor.device.type == "cpu" else _PIECE)
    for piece in pieces:
        draw(drawn := torch.empty_like(piece, dtype=torch.float32))
        piece.copy_(drawn)


def zeros() -> Rule:
    """All zero."""
    return Values(values=(0.0,))


def ones() -> Rule:
    """All one."""
    return Values(values=(1.0,))


def values(given: Iterable[float]) -> Rule:
    """These values, one for each element."""
    return Values(values=tuple(given))


def normal(*, std: float, zero_row: int | None = None) -> Rule:
    """Normal with mean 0; `zero_row` is the padding row of an embedding."""
    return Normal(scale=std, zero_row=zero_row)


def truncated_normal(*, std: float, cut: float = 3.0) -> Rule:
    """Normal with mean 0, cut at `cut` standard deviations on either side."""
    return TruncatedNormal(scale=std, cut=cut)


def xavier_normal(*, gain: float = 1.0) -> Rule:
    """Normal with mean 0 and a spread by the sum of both fans."""
    return XavierNormal(gain=gain)


def fan_in_uniform() -> Rule:
    """Uniform within 1/sqrt(fan_in) on either side of 0, as torch's linear layers begin."""
    return FanInUniform()
