"""FP8 weights that are stored with scales: find the scale of a weight, and dequantize."""

from __future__ import annotations

from collections.abc import Container, Iterator
from math import ceil, prod
from pathlib import Path

import torch
from torch import Tensor

from ...errors import CheckpointError
from ...filesystem.printable import dtype_of, printable_name, shape_of
from .layout import DAMAGED
from .stored import StoredTensor, memory_of

DTYPES = frozenset({torch.float8_e4m3fn, torch.float8_e4m3fnuz, torch.float8_e5m2, torch.float8_e5m2fnuz})

_PIECE = 2**18  # elements that are dequantized at once
_EXPONENT_BIAS = 127  # of a scale stored as the exponent of a power of two (E8M0) in a uint8
_WEIGHT = ".weight"

Blocks = tuple[int, int]


def scale_of(name: str, names: Container[str]) -> str | None:
    """Return the name of the scale of the FP8 tensor `name`, or None.

    The scale is `NAME_scale_inv` (DeepSeek-V3, transformers) or `NAME_scale` (compressed-tensors, vLLM, FBGEMM,
    ModelOpt); for `X.weight` also `X.scale` or `X.scale_weight`. Despite its name, `NAME_scale_inv` is multiplied too.

    Raises:
        CheckpointError: The tensor has two scales.
    """
    found = [candidate for candidate in _scale_names(name) if candidate in names]
    if len(found) > 1:
        one, other = map(printable_name, found[:2])
        raise CheckpointError(
            f"'{printable_name(name)}' has two scales, '{one}' and '{other}'", hint="remove one of them"
        )
    return found[0] if found else None


def has_scale(name: str, names: Container[str]) -> bool:
    """Return whether the FP8 tensor `name` has a scale."""
    return any(candidate in names for candidate in _scale_names(name))


def _scale_names(name: str) -> Iterator[str]:
    yield name + "_scale_inv"
    yield name + "_scale"
    if name.endswith(_WEIGHT):
        stem = name.removesuffix(_WEIGHT)
        yield stem + ".scale"
        yield stem + ".scale_weight"


class ScaledTensor(StoredTensor):
    """An FP8 tensor multiplied by its scale, dequantized one piece at a time.

    Args:
        name: Name of the weight, for messages.
        weight: The FP8 values, of any shape.
        scale: One factor for the whole tensor, for each index of the leading dimensions (per row, per expert), or for
            each block of the last two dimensions. Dtype: a float, E8M0, or E8M0 in a uint8.
        blocks: Rows and columns of a block, if config.json declares them.
        dtype: Dtype of the multiplication and of the result: float32 or float64.
        file: The checkpoint, for messages.

    Raises:
        CheckpointError: The shapes of scale and weight do not match, or a factor is not a finite number above 0.
    """

    def __init__(
        self,
        name: str,
        weight: StoredTensor,
        scale: StoredTensor,
        *,
        blocks: Blocks | None = None,
        dtype: torch.dtype = torch.float32,
        file: Path | None = None,
    ) -> None:
        super().__init__(weight.shape, dtype)
        self.weight = weight
        grid = _aligned(scale.shape, weight.shape)
        sizes = _block_sizes(grid, weight.shape, blocks) if grid is not None else None
        if grid is None or sizes is None:
            expected = f"; expected blocks of {shape_of(blocks)}" if blocks is not None else ""
            raise CheckpointError(
                f"the scale of '{printable_name(name)}' has shape {shape_of(scale.shape)}, "
                f"which does not match the weight's shape {shape_of(weight.shape)}{expected}",
                file=file,
                hint=DAMAGED,
            )
        if not (scale.dtype.is_floating_point or scale.dtype is torch.uint8):
            raise CheckpointError(
                f"the scale of '{printable_name(name)}' has dtype {dtype_of(scale.dtype)}; expected a float dtype",
                file=file,
                hint=DAMAGED,
            )
        columns = (grid[-1] if grid else 1) or 1
        self._grid = grid[:-1]
        self._blocks = sizes
        self._scale = _plain(scale.tensor()).reshape(-1, columns)
        factors = self._factors(self._scale)
        if not bool((torch.isfinite(factors) & (factors > 0)).all()):
            bad = factors[~(torch.isfinite(factors) & (factors > 0))][0].item()
            raise CheckpointError(
                f"the scale of '{printable_name(name)}' contains {bad}; expected finite numbers above 0",
                file=file,
                hint=DAMAGED,
            )

    @property
    def streams(self) -> bool:
        """Return whether a part can be read without the other parts of the tensor."""
        return self.weight.streams

    def tensor(self) -> Tensor:
        """Return the dequantized values."""
        values = torch.empty(self.shape, dtype=self.dtype)
        self.read(memory_of(values), 0)
        return values

    def read(self, memory: memoryview, start: int) -> None:
        """Fill `memory` with the bytes of the dequantized values, starting at byte `start`."""
        width = self.dtype.itemsize
        whole = None if self.streams else self.weight.tensor().view(-1)
        for at in range(0, memory.nbytes, _PIECE * width):
            part = memory[at : at + _PIECE * width]
            begin, count = (start + at) // width, part.nbytes // width
            if whole is not None:
                stored = whole[begin : begin + count]
            else:
                stored = torch.empty(count, dtype=self.weight.dtype)
                self.weight.read(memory_of(stored), begin)
            values = stored.to(self.dtype)
            self._multiply(values, begin)
            part[:] = memory_of(values)

    def _multiply(self, values: Tensor, begin: int) -> None:
        """Multiply a flat range of elements, starting at element `begin`, by their factors in place."""
        if self._scale.numel() <= 1:
            values.mul_(self._factors(self._scale).view(-1))
            return
        columns = self.shape[-1] if self.shape else 1
        at = 0
        while at < len(values):
            row, column = divmod(begin + at, columns)
            rows = (len(values) - at) // columns if column == 0 else 0
            if rows:  # whole rows
                part = values[at : at + rows * columns].view(rows, columns)
            else:  # a row that begins before the range, or ends after it
                rows, part = 1, values[at : at + columns - column].view(1, -1)
            self._multiply_rows(part, row, column)
            at += part.numel()

    def _multiply_rows(self, part: Tensor, row: int, column: int) -> None:
        factors = self._factors(self._scale.index_select(0, self._grid_rows(row, len(part))))
        block = self._blocks[-1]
        if factors.shape[1] == 1:
            part.mul_(factors)
        elif column == 0 and part.shape[1] % block == 0:
            count = part.shape[1] // block
            part.view(len(part), count, block).mul_(factors[:, :count, None])
        else:
            index = torch.arange(column, column + part.shape[1]).div_(block, rounding_mode="floor")
            part.mul_(factors.index_select(1, index))

    def _grid_rows(self, first: int, count: int) -> Tensor:
        """Return the rows of the scale matrix that apply to `count` rows of the weight matrix from row `first` on."""
        rest = torch.arange(first, first + count)
        found, stride = torch.zeros_like(rest), 1
        for size, block, cells in zip(self.shape[-2::-1], self._blocks[-2::-1], self._grid[::-1], strict=True):
            found += rest.remainder(size).div_(block, rounding_mode="floor") * stride
            rest = rest.div(size, rounding_mode="floor")
            stride *= cells
        return found

    def _factors(self, scale: Tensor) -> Tensor:
        if scale.dtype is torch.uint8:
            # 255 is NaN in E8M0.
            exponents = scale.to(self.dtype) - _EXPONENT_BIAS
            return torch.exp2(exponents).masked_fill_(scale == 255, torch.nan)
        return scale.to(self.dtype)


def _plain(scale: Tensor) -> Tensor:
    """Return the scale in a dtype that can be indexed: E8M0 as its exponents, other 8-bit floats as float32."""
    if scale.dtype is torch.float8_e8m0fnu:
        return scale.view(torch.uint8)
    return scale.float() if scale.dtype in DTYPES else scale


def _aligned(scale: tuple[int, ...], weight: tuple[int, ...]) -> tuple[int, ...] | None:
    """Return the scale's shape, padded to the number of dimensions of the weight; None if it does not match.

    A single factor applies to the whole tensor. A shorter shape gives the leading dimensions: [rows] of a matrix,
    [experts] or [experts, rows].
    """
    if prod(scale) == 1:
        return (1,) * len(weight)
    if len(scale) == len(weight):
        return scale
    padded = scale + (1,) * (len(weight) - len(scale))
    fits = len(scale) < len(weight) and all(n in (1, size) for n, size in zip(scale, weight, strict=False))
    return padded if fits else None


def _block_sizes(grid: tuple[int, ...], weight: tuple[int, ...], blocks: Blocks | None) -> tuple[int, ...] | None:
    """Return the block size in elements of each dimension, or None if the grid does not divide the weight."""
    whole = [size if n == 1 else 1 if n == size else None for n, size in zip(grid, weight, strict=True)]
    leading = whole[:-2]
    if blocks is None or len(weight) < 2:
        guessed = [
            w or _guess_block_size(n, size) for w, n, size in zip(whole[-2:], grid[-2:], weight[-2:], strict=True)
        ]
        return _complete([*leading, *guessed])
    if all(ceil(size / block) == n for n, size, block in zip(grid[-2:], weight[-2:], blocks, strict=True)):
        return _complete([*leading, *blocks])
    # One factor for a whole matrix or row requires no block size.
    return _complete(whole) if grid[-1] == 1 else None


def _complete(sizes: list[int | None]) -> tuple[int, ...] | None:
    return tuple(size for size in sizes if size is not None) if None not in sizes else None


def _guess_block_size(cells: int, size: int) -> int | None:
    """Return a block size that gives `cells` blocks: the smallest power of two, an exact divisor, else None."""
    powers = (1 << n for n in range(size.bit_length() + 1))
    even = size // cells if cells and size % cells == 0 else None
    return next((block for block in powers if ceil(size / block) == cells), even)
