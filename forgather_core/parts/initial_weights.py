"""Initial weights as a table: a pattern on parameter names, and the rule that fills what it matches.

A definition yields `(pattern, rule)` pairs; the first pattern found in a parameter's name wins. Each rule states the
standard deviation it promises, so that a test can hold it to that. Weights of linear layers are [fan_out, fan_in].

Rules draw in float32; `weight_pieces.py` calls them piece by piece, with a generator for each piece.
"""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Generator, Tensor

from forgather_core.parts.weight_pieces import Fill, Shape, fill_all

Table = Iterable[tuple[str, "Rule"]]


@dataclass(frozen=True)
class Rule:
    """How a parameter is filled.

    A subclass overrides `std` and `sample`. One that needs the whole matrix at once, such as an orthogonal
    initialization, overrides `draw` instead of `sample`.

    Args:
        zero_row: A row that is set to zero afterwards: the embedding of padding. Negative numbers count from the end.
    """

    zero_row: int | None = None
    random: ClassVar[bool] = True  # False: the numbers do not depend on a seed

    @property
    def needs_whole(self) -> bool:
        """Whether the rule overrides `draw`."""
        return type(self).draw is not Rule.draw

    def std(self, shape: Shape) -> float:
        """Return the standard deviation of a filled tensor of this shape, without its zero row."""
        raise NotImplementedError

    def check(self, shape: Shape) -> None:
        """Check that the rule can fill a tensor of this shape.

        Raises:
            ValueError: It cannot; the message says what to do.
        """
        row, rows = self.zero_row, shape[0] if shape else 0
        if row is not None and not -rows <= row < rows:
            raise ValueError(f"zero_row is {row}, but there are {rows} rows; zero_row must be one of them, or None")

    def sample(self, numbers: Tensor, shape: Shape, start: int, generator: Generator) -> None:
        """Fill `numbers` with consecutive elements of a flattened tensor.

        Args:
            numbers: [n], float32, on the CPU.
            shape: The shape of the full tensor.
            start: The index of the first of these elements in the flattened tensor.
            generator: The source of random numbers. Use no other one.
        """
        raise NotImplementedError

    def draw(self, tensor: Tensor) -> None:
        """Fill a whole float32 tensor on the CPU, from torch's global generator, which has a seed of its own here."""
        self.sample(tensor.view(-1), tuple(tensor.shape) or (1,), 0, torch.default_generator)

    def fill(self, tensor: Tensor, *, seed: int | None = None, name: str = "") -> None:
        """Fill a tensor in place, in its own dtype and on its own device.

        Args:
            tensor: Any shape; also a `DTensor`, of which this process fills its own shard.
            seed: The base seed; None takes one from torch's global generator.
            name: The parameter's name; another name gives other numbers.

        Raises:
            ValueError: The rule cannot fill a tensor of this shape.
        """
        fill_all([Fill(self, tensor, name)], seed)


@dataclass(frozen=True)
class Values(Rule):
    """The values given, one for each element; a single one for all."""

    values: tuple[float, ...] = (0.0,)
    random: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if not self.values:
            raise ValueError("values() requires at least one value")

    def std(self, shape: Shape) -> float:
        mean = sum(self.values) / len(self.values)
        return math.sqrt(sum((value - mean) ** 2 for value in self.values) / len(self.values))

    def check(self, shape: Shape) -> None:
        super().check(shape)
        if len(self.values) not in (1, count := math.prod(shape)):
            raise ValueError(f"values() has {len(self.values)} values for {count} elements; give one, or one for each")

    def sample(self, numbers: Tensor, shape: Shape, start: int, generator: Generator) -> None:
        if len(self.values) == 1:
            numbers.fill_(self.values[0])
        else:
            given = self.values[start : start + len(numbers)]
            numbers.copy_(torch.tensor(given, dtype=torch.float32, device="cpu"))

    def __str__(self) -> str:
        return ", ".join(f"{value:.4g}" for value in self.values)


@dataclass(frozen=True)
class Normal(Rule):
    """N(0, scale^2)."""

    scale: float = 1.0

    def std(self, shape: Shape) -> float:
        return self.scale

    def sample(self, numbers: Tensor, shape: Shape, start: int, generator: Generator) -> None:
        numbers.normal_(0.0, self.scale, generator=generator)

    def __str__(self) -> str:
        return f"normal, std {self.scale:.4g}" + ("" if self.zero_row is None else f", row {self.zero_row} zero")


@dataclass(frozen=True)
class TruncatedNormal(Rule):
    """N(0, scale^2), without what lies beyond `cut` times `scale` on either side."""

    scale: float = 1.0
    cut: float = 3.0

    def __post_init__(self) -> None:
        if not self.cut >= _SMALLEST_CUT:
            raise ValueError(f"cut is {self.cut:g} and must be at least {_SMALLEST_CUT:g}")

    def std(self, shape: Shape) -> float:
        # Variance of the truncated normal: 1 - 2 c phi(c) / (2 Phi(c) - 1), with phi and Phi of the unit normal.
        density = math.exp(-0.5 * self.cut**2) / math.sqrt(2 * math.pi)
        inside = math.erf(self.cut / math.sqrt(2))
        return self.scale * math.sqrt(1 - 2 * self.cut * density / inside)

    def sample(self, numbers: Tensor, shape: Shape, start: int, generator: Generator) -> None:
        bound = self.cut * self.scale
        numbers.normal_(0.0, self.scale, generator=generator)
        outside = (numbers.abs() > bound).nonzero().squeeze(1)
        while len(outside):  # few: drawn again, until none is left
            again = numbers.new_empty(len(outside)).normal_(0.0, self.scale, generator=generator)
            numbers.index_copy_(0, outside, again)
            outside = outside[again.abs() > bound]

    def __str__(self) -> str:
        return f"truncated normal, std {self.scale:.4g}, cut at {self.cut:g} std"


_SMALLEST_CUT = 0.1  # below, nearly every number would be drawn again and again


@dataclass(frozen=True)
class FanRule(Rule):
    """A rule that depends on how many inputs and outputs a weight connects.

    Args:
        dims: What each dimension of the weight is: `o` outputs, `i` inputs, `k` positions of a convolution's kernel,
            `e` independent weights side by side, such as experts. None stands for `oi`, a linear layer, and takes
            weights of two dimensions only.
    """

    dims: str | None = None

    def __post_init__(self) -> None:
        if self.dims is not None and not ({"o", "i"} <= set(self.dims) <= set("eoik")):
            raise ValueError(f"dims is '{self.dims}' and must have 'o' and 'i', and otherwise only 'e' and 'k'")

    def check(self, shape: Shape) -> None:
        super().check(shape)
        self.fans(shape)

    def fans(self, shape: Shape) -> tuple[int, int]:
        """Return `(fan_in, fan_out)` of a weight, as torch computes them: kernel positions count for both.

        Raises:
            ValueError: They do not follow from the shape alone, or `dims` does not fit the shape.
        """
        if len(shape) < 2:
            raise ValueError(
                f"shape {tuple(shape)} has no fan_in and fan_out; use normal(std=...), zeros(), ones() or values()"
            )
        if self.dims is None and len(shape) > 2:
            raise ValueError(
                f"fan_in and fan_out of shape {tuple(shape)} are ambiguous; pass dims to the rule, "
                f"such as dims='eoi' for experts [E, fan_out, fan_in] or dims='oik' for a convolution"
            )
        dims = self.dims or "oi"
        if len(dims) != len(shape):
            raise ValueError(f"dims='{dims}' has {len(dims)} dimensions, but the shape {tuple(shape)} has {len(shape)}")
        size = {kind: math.prod(n for n, d in zip(shape, dims, strict=True) if d == kind) for kind in "oik"}
        return size["i"] * size["k"], size["o"] * size["k"]


@dataclass(frozen=True)
class XavierNormal(FanRule):
    """N(0, gain^2 * 2 / (fan_in + fan_out)) (Glorot and Bengio 2010, eq. 12)."""

    gain: float = 1.0

    def std(self, shape: Shape) -> float:
        return self.gain * math.sqrt(2 / max(sum(self.fans(shape)), 1))  # both are 0 for some empty tensors

    def sample(self, numbers: Tensor, shape: Shape, start: int, generator: Generator) -> None:
        numbers.normal_(0.0, self.std(shape), generator=generator)

    def __str__(self) -> str:
        return f"Xavier normal, gain {self.gain:.4g}" + (f", dims {self.dims}" if self.dims else "")


@dataclass(frozen=True)
class FanInUniform(FanRule):
    """U(-1/sqrt(fan_in), 1/sqrt(fan_in))."""

    def bound(self, shape: Shape) -> float:
        """Return 1/sqrt(fan_in)."""
        return max(self.fans(shape)[0], 1) ** -0.5  # it is 0 for some empty tensors

    def std(self, shape: Shape) -> float:
        return self.bound(shape) / math.sqrt(3)

    def sample(self, numbers: Tensor, shape: Shape, start: int, generator: Generator) -> None:
        bound = self.bound(shape)
        numbers.uniform_(-bound, bound, generator=generator)

    def __str__(self) -> str:
        return "uniform, +-1/sqrt(fan_in)" + (f", dims {self.dims}" if self.dims else "")


def fill_random(tensor: Tensor, draw: Callable[[Tensor], object]) -> None:
    """Fill a tensor with numbers that `draw` puts into a float32 tensor, rounded once: for `Rule.draw`."""
    draw(drawn := torch.empty_like(tensor, dtype=torch.float32))
    tensor.copy_(drawn)


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


def xavier_normal(*, gain: float = 1.0, dims: str | None = None) -> Rule:
    """Normal with mean 0 and variance `gain^2 * 2 / (fan_in + fan_out)`.

    Args:
        gain: A factor on the standard deviation.
        dims: What each dimension is, for weights that are not [fan_out, fan_in]: `eoi` for experts, `oik` for a
            convolution over time, `oikk` for one over images; see `FanRule`.
    """
    return XavierNormal(gain=gain, dims=dims)


def fan_in_uniform(*, dims: str | None = None) -> Rule:
    """Uniform within 1/sqrt(fan_in) on either side of 0, as torch's linear layers begin.

    Args:
        dims: What each dimension is, for weights that are not [fan_out, fan_in]; as for `xavier_normal`.
    """
    return FanInUniform(dims=dims)
