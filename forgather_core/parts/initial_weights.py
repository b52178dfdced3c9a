"""Initialization as a table of patterns on parameter names and rules.

A definition yields `(pattern, rule)` pairs; the first pattern found in a parameter's name determines the rule. Each
rule states its standard deviation, which tests compare with the weights. Weights of linear layers are
[fan_out, fan_in].

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
    """A rule that fills a parameter.

    Subclasses override `std` and `sample`. A rule that requires the full matrix, such as orthogonal initialization,
    overrides `draw` instead of `sample`.

    Args:
        zero_row: Index of a row that is set to zero, the embedding of padding; negative counts from the end.
    """

    zero_row: int | None = None
    random: ClassVar[bool] = True  # False: the values do not depend on a seed

    @property
    def needs_whole(self) -> bool:
        """Return whether the rule overrides `draw`."""
        return type(self).draw is not Rule.draw

    def std(self, shape: Shape) -> float:
        """Return the standard deviation of a filled tensor of this shape, without its zero row."""
        raise NotImplementedError

    def check(self, shape: Shape) -> None:
        """Check that the rule can fill a tensor of this shape.

        Raises:
            ValueError: It cannot.
        """
        row, rows = self.zero_row, shape[0] if shape else 0
        if row is not None and not -rows <= row < rows:
            raise ValueError(f"zero_row must be None or one of the {rows} rows, got {row}")

    def sample(self, elements: Tensor, shape: Shape, start: int, generator: Generator) -> None:
        """Fill `elements` with consecutive elements of a flattened tensor.

        Args:
            elements: [n], float32, on the CPU.
            shape: The shape of the full tensor.
            start: The index of the first of these elements in the flattened tensor.
            generator: The only source of random numbers to use.
        """
        raise NotImplementedError

    def draw(self, tensor: Tensor) -> None:
        """Fill a full float32 tensor on the CPU from torch's global generator, which is seeded for this call."""
        self.sample(tensor.view(-1), tuple(tensor.shape) or (1,), 0, torch.default_generator)

    def fill(self, tensor: Tensor, *, seed: int | None = None, name: str = "") -> None:
        """Fill a tensor in place, in its own dtype and on its own device.

        Args:
            tensor: A tensor of any shape. For a `DTensor`, this process fills its shard.
            seed: The base seed; None takes one from torch's global generator.
            name: The parameter's name; different names give different values.

        Raises:
            ValueError: The rule cannot fill a tensor of this shape.
        """
        fill_all([Fill(self, tensor, name)], seed)


@dataclass(frozen=True)
class Values(Rule):
    """Fixed values: one for each element, or one for all."""

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

    def sample(self, elements: Tensor, shape: Shape, start: int, generator: Generator) -> None:
        if len(self.values) == 1:
            elements.fill_(self.values[0])
        else:
            given = self.values[start : start + len(elements)]
            elements.copy_(torch.tensor(given, dtype=torch.float32, device="cpu"))

    def __str__(self) -> str:
        return ", ".join(f"{value:.4g}" for value in self.values)


@dataclass(frozen=True)
class Normal(Rule):
    """Normal distribution N(0, scale^2)."""

    scale: float = 1.0

    def std(self, shape: Shape) -> float:
        return self.scale

    def sample(self, elements: Tensor, shape: Shape, start: int, generator: Generator) -> None:
        elements.normal_(0.0, self.scale, generator=generator)

    def __str__(self) -> str:
        return f"normal, std {self.scale:.4g}" + ("" if self.zero_row is None else f", row {self.zero_row} zero")


@dataclass(frozen=True)
class TruncatedNormal(Rule):
    """Normal distribution N(0, scale^2), truncated at `cut * scale` on both sides; `cut` is at least 0.1."""

    scale: float = 1.0
    cut: float = 3.0

    def __post_init__(self) -> None:
        if not self.cut >= _SMALLEST_CUT:
            raise ValueError(f"cut must be at least {_SMALLEST_CUT:g}, got {self.cut:g}")

    def std(self, shape: Shape) -> float:
        # Variance of the truncated normal: 1 - 2 c phi(c) / (2 Phi(c) - 1), with phi and Phi of the unit normal.
        density = math.exp(-0.5 * self.cut**2) / math.sqrt(2 * math.pi)
        inside = math.erf(self.cut / math.sqrt(2))
        return self.scale * math.sqrt(1 - 2 * self.cut * density / inside)

    def sample(self, elements: Tensor, shape: Shape, start: int, generator: Generator) -> None:
        bound = self.cut * self.scale
        elements.normal_(0.0, self.scale, generator=generator)
        outside = (elements.abs() > bound).nonzero().squeeze(1)
        while len(outside):  # resample until none is outside
            redrawn = elements.new_empty(len(outside)).normal_(0.0, self.scale, generator=generator)
            elements.index_copy_(0, outside, redrawn)
            outside = outside[redrawn.abs() > bound]

    def __str__(self) -> str:
        return f"truncated normal, std {self.scale:.4g}, cut at {self.cut:g} std"


_SMALLEST_CUT = 0.1  # below, most elements would be resampled many times


@dataclass(frozen=True)
class FanRule(Rule):
    """Base of rules that depend on fan_in and fan_out.

    Args:
        dims: The meaning of each dimension of the weight: `o` outputs, `i` inputs, `k` positions of a convolution's
            kernel, `e` independent weights such as experts. None means `oi`, a linear layer, for weights of two
            dimensions only.

    Raises:
        ValueError: `dims` lacks `o` or `i`, or contains other letters.
    """

    dims: str | None = None

    def __post_init__(self) -> None:
        if self.dims is not None and not ({"o", "i"} <= set(self.dims) <= set("eoik")):
            raise ValueError(f"dims must contain 'o' and 'i', and otherwise only 'e' and 'k'; got '{self.dims}'")

    def check(self, shape: Shape) -> None:
        super().check(shape)
        self.fans(shape)

    def fans(self, shape: Shape) -> tuple[int, int]:
        """Return `(fan_in, fan_out)` of a weight, as torch computes them: kernel positions count for both.

        Raises:
            ValueError: The shape alone does not determine them, or `dims` does not match the shape.
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
            raise ValueError(f"dims must have one letter for each dimension of shape {tuple(shape)}, got dims='{dims}'")
        size = {kind: math.prod(n for n, d in zip(shape, dims, strict=True) if d == kind) for kind in "oik"}
        return size["i"] * size["k"], size["o"] * size["k"]


@dataclass(frozen=True)
class XavierNormal(FanRule):
    """Xavier normal: N(0, gain^2 * 2 / (fan_in + fan_out)) (Glorot and Bengio 2010, eq. 12)."""

    gain: float = 1.0

    def std(self, shape: Shape) -> float:
        return self.gain * math.sqrt(2 / max(sum(self.fans(shape)), 1))  # both are 0 for some empty tensors

    def sample(self, elements: Tensor, shape: Shape, start: int, generator: Generator) -> None:
        elements.normal_(0.0, self.std(shape), generator=generator)

    def __str__(self) -> str:
        return f"Xavier normal, gain {self.gain:.4g}" + (f", dims {self.dims}" if self.dims else "")


@dataclass(frozen=True)
class FanInUniform(FanRule):
    """Uniform distribution U(-1/sqrt(fan_in), 1/sqrt(fan_in))."""

    def bound(self, shape: Shape) -> float:
        """Return 1/sqrt(fan_in)."""
        return max(self.fans(shape)[0], 1) ** -0.5  # 0 for some empty tensors

    def std(self, shape: Shape) -> float:
        return self.bound(shape) / math.sqrt(3)

    def sample(self, elements: Tensor, shape: Shape, start: int, generator: Generator) -> None:
        bound = self.bound(shape)
        elements.uniform_(-bound, bound, generator=generator)

    def __str__(self) -> str:
        return "uniform, +-1/sqrt(fan_in)" + (f", dims {self.dims}" if self.dims else "")


def fill_random(tensor: Tensor, draw: Callable[[Tensor], object]) -> None:
    """Fill a tensor with `draw`, which fills a float32 tensor; values are rounded once. For use in `Rule.draw`."""
    draw(drawn := torch.empty_like(tensor, dtype=torch.float32))
    tensor.copy_(drawn)


def zeros() -> Rule:
    """Return a rule that fills with zeros."""
    return Values(values=(0.0,))


def ones() -> Rule:
    """Return a rule that fills with ones."""
    return Values(values=(1.0,))


def values(given: Iterable[float]) -> Rule:
    """Return a rule that fills with these values, one for each element, or one for all."""
    return Values(values=tuple(given))


def normal(*, std: float, zero_row: int | None = None) -> Rule:
    """Return a rule for N(0, std^2); `zero_row` is the padding row of an embedding."""
    return Normal(scale=std, zero_row=zero_row)


def truncated_normal(*, std: float, cut: float = 3.0) -> Rule:
    """Return a rule for N(0, std^2), truncated at `cut` standard deviations on both sides."""
    return TruncatedNormal(scale=std, cut=cut)


def xavier_normal(*, gain: float = 1.0, dims: str | None = None) -> Rule:
    """Return a rule for a normal distribution with mean 0 and variance `gain^2 * 2 / (fan_in + fan_out)`.

    Args:
        gain: Factor of the standard deviation.
        dims: The meaning of each dimension, for weights that are not [fan_out, fan_in]: `eoi` for experts, `oik` for a
            convolution over time, `oikk` for one over images; see `FanRule`.
    """
    return XavierNormal(gain=gain, dims=dims)


def fan_in_uniform(*, dims: str | None = None) -> Rule:
    """Return a rule for U(-1/sqrt(fan_in), 1/sqrt(fan_in)), the initialization of torch's linear layers.

    Args:
        dims: The meaning of each dimension, for weights that are not [fan_out, fan_in]; as for `xavier_normal`.
    """
    return FanInUniform(dims=dims)
