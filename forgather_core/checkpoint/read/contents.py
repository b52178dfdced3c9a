"""The tensors of a checkpoint as a model expects them: renamed to the model's names, and dequantized."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from ...errors import CheckpointError
from ...filesystem.printable import tensors, truncated_list
from ..formats.fp8 import DTYPES, ScaledTensor
from ..formats.stored import StoredTensor, memory_of
from .names import Matching, adapted_module, bare, base_prefix_of, is_adapter, match_names
from .quantized import Quantization, quantization_of, refuse_lost_scales, refuse_packed
from .reader import Checkpoint


class Contents(Mapping[str, StoredTensor]):
    """The tensors of a checkpoint for one model.

    Tensors that the model has are listed by the model's name, all others by the checkpoint's name.

    Args:
        path: The checkpoint.
        stored: The tensors by name.
        unused: Names of scales that are not needed.
        notes: How the checkpoint was read, one sentence each.
        warnings: Possible problems, one sentence each.
        non_finite: Names of the tensors that contain NaN or Inf; None if they are unknown until the values are read.
    """

    def __init__(
        self,
        path: Path,
        stored: Mapping[str, StoredTensor],
        *,
        unused: tuple[str, ...] = (),
        notes: tuple[str, ...] = (),
        warnings: tuple[str, ...] = (),
        non_finite: frozenset[str] | None = None,
    ) -> None:
        self.path = path
        self.unused = unused
        self.notes = notes
        self.warnings = warnings
        self.non_finite = non_finite
        self._stored = stored

    def __getitem__(self, name: str) -> StoredTensor:
        return self._stored[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._stored)

    def __len__(self) -> int:
        return len(self._stored)


def contents_for(model: nn.Module, state: Mapping[str, Tensor], checkpoint: Checkpoint) -> Contents:
    """Match the names of a checkpoint with a model's, and pair FP8 weights with their scales. Only scales are read.

    Raises:
        CheckpointError: The checkpoint is quantized in an unsupported format, a scale is invalid or missing, two
            different tensors match the same name of the model, or the checkpoint is an adapter.
    """
    path = checkpoint.path
    matching = match_names(
        checkpoint.keys(),
        state.keys(),
        base_prefix_of(model),
        lambda a, b: equal_bits(checkpoint[a], checkpoint[b]),
        path,
    )
    quantization = quantization_of(checkpoint, matching.names)
    refuse_packed(quantization, path)
    unmerged = _unmerged(checkpoint.keys(), matching, path)
    stored = _dequantized(checkpoint, state, matching, quantization)
    notes, warnings = [*checkpoint.notes, *matching.notes], list[str]()
    unused: tuple[str, ...] = ()
    dropped: set[str] = set()
    if quantization is not None:
        unused = quantization.unused
        dropped = {*unused, *quantization.scales.values()}
        count = sum(isinstance(tensor, ScaledTensor) for tensor in stored.values())
        if count:
            notes.append(f"quantized (fp8): dequantized {tensors(count)}")
        if unused:
            notes.append(f"activation scales not used: {truncated_list(unused)}")
    if plain := _plain_casts(checkpoint, state, matching, stored):
        # Forgather writes no scales, so none are missing from its files; another program's file may have lost them.
        text = (
            f"{tensors(len(plain))} of {path} in float8 without scales, converted without scaling: "
            f"{truncated_list(plain)}"
        )
        (notes if checkpoint.is_own else warnings).append(text)
    if unmerged:
        warnings.append(
            f"{tensors(len(unmerged))} of an adapter in {path} not applied: {truncated_list(unmerged)}; "
            f"merge them with PEFT's merge_and_unload() and save the model"
        )
    known = checkpoint.known_non_finite
    return Contents(
        path,
        {matching.names.get(name, name): tensor for name, tensor in stored.items() if name not in dropped},
        unused=unused,
        notes=tuple(notes),
        warnings=tuple(warnings),
        non_finite=frozenset(matching.names.get(name, name) for name in known) if known is not None else None,
    )


def equal_bits(one: StoredTensor, other: StoredTensor) -> bool:
    """Return whether two stored tensors have the same shape, dtype and bits. NaN equals NaN with the same bits."""
    if one.shape != other.shape or one.dtype != other.dtype:
        return False
    x, y = one.mapped(), other.mapped()  # both must outlive their memoryviews
    return memory_of(x) == memory_of(y)


def _dequantized(
    checkpoint: Checkpoint, state: Mapping[str, Tensor], matching: Matching, quantization: Quantization | None
) -> dict[str, StoredTensor]:
    """Return the tensors by the checkpoint's names; FP8 weights that the model has are combined with their scales."""
    stored: dict[str, StoredTensor] = dict(checkpoint)
    if quantization is None:
        return stored
    lost = [n for n in quantization.unscaled if n in matching.names and state[matching.names[n]].dtype not in DTYPES]
    refuse_lost_scales(lost, checkpoint.path)
    for name, scale in quantization.scales.items():
        if (target := matching.names.get(name)) is not None:
            dtype = torch.float64 if state[target].dtype is torch.float64 else torch.float32
            stored[name] = ScaledTensor(
                name, checkpoint[name], checkpoint[scale], blocks=quantization.blocks, dtype=dtype, file=checkpoint.path
            )
    return stored


def _plain_casts(
    checkpoint: Checkpoint, state: Mapping[str, Tensor], matching: Matching, stored: Mapping[str, StoredTensor]
) -> list[str]:
    """Return the FP8 tensors that are converted to a wider dtype without a scale."""
    return [
        name
        for name, target in matching.names.items()
        if stored[name].dtype in DTYPES and state[target].dtype not in DTYPES and state[target].is_floating_point()
    ]


def _unmerged(names: Collection[str], matching: Matching, path: Path) -> list[str]:
    """Return the tensors of an adapter that the model does not have.

    Raises:
        CheckpointError: The weights that the adapter modifies are not in the checkpoint.
    """
    found = [name for name in names if name not in matching.names and is_adapter(name)]
    loaded = {bare(target).rpartition(".")[0] for target in matching.names.values()} if found else set()
    if found and not any(adapted_module(name) in loaded for name in found):
        hint = "load it with PEFT on top of the model that it adapts, call merge_and_unload(), and save that model"
        raise CheckpointError(f"is an adapter ({truncated_list(found[:1])}), not a model", file=path, hint=hint)
    return found
