"""Recognize quantized checkpoints. FP8 weights with scales can be dequantized; other formats are not supported."""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ...errors import CheckpointError
from ...filesystem.printable import printable_name, truncated_list
from ...filesystem.strict_json import read_object
from ...settings.native_config import FP8_METHODS
from ..formats.foreign import FETCH_AGAIN
from ..formats.fp8 import DTYPES, Blocks, scale_of
from ..formats.stored import StoredTensor
from .reader import Checkpoint

QUANTIZATION_KEYS = ("quantization_config", "compression_config")

_CONFIG = "config.json"

_INTEGERS = frozenset({torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64})

# Format, suffix of its packed tensors, and suffixes of companions, one of which must exist. The first match applies.
_FORMATS: tuple[tuple[str, str, tuple[str, ...]], ...] = (
    ("GPTQ", ".qweight", (".g_idx",)),
    ("AWQ", ".qweight", (".qzeros", ".scales")),
    ("NVFP4", ".weight_packed", (".weight_global_scale",)),
    ("compressed-tensors", ".weight_packed", (".weight_scale",)),
    ("NVFP4", ".weight", (".weight_scale_2",)),
    (
        "bitsandbytes",
        ".weight",
        (".weight.absmax", ".weight.quant_state.bitsandbytes__nf4", ".weight.quant_state.bitsandbytes__fp4", ".SCB"),
    ),
    ("HQQ", ".W_q", (".scale", ".zero", ".nbits", ".meta")),
    ("quanto", "._data", ("._scale",)),
    ("torchao", "_qdata", ("_scale",)),
    ("MXFP4", "_blocks", ("_scales",)),
    ("AQLM", ".codes", (".codebooks",)),
    ("EXL2", ".q_weight", (".q_scale",)),
    ("EXL3", ".trellis", (".suh",)),
    ("VPTQ", ".indices", (".centroids.weight",)),
    ("SpQR", ".dense_weights", (".row_offsets",)),
    ("HIGGS", ".weight", (".tables",)),
    ("EETQ", ".weight", (".weight_scales",)),
    ("8-bit or packed integers with scales", "", ("_scale", "_scale_inv", "_zero_point")),
    ("8-bit or packed integers with scales", ".weight", (".scale", ".scales")),
)
_UNUSED = (
    "input_scale", "input_scale_inv", "input_scale_ub", "input_zero_point", "activation_scale", "activation_scale_inv",
    "act_scale", "output_scale", "scale_input", "q_scale", "k_scale", "v_scale", "prob_scale", "kv_scale",
)  # fmt: skip


@dataclass(frozen=True)
class Quantization:
    """Quantization of a checkpoint.

    Args:
        method: "fp8", or the name of an unsupported format.
        scales: For fp8, the name of the scale by the name of the weight.
        unscaled: Names of FP8 tensors without a scale.
        unused: Names of scales of activations and caches, which dequantized weights do not need.
        blocks: Rows and columns of a block, if config.json declares them.
    """

    method: str
    scales: Mapping[str, str]
    unscaled: tuple[str, ...]
    unused: tuple[str, ...]
    blocks: Blocks | None

    @property
    def is_fp8(self) -> bool:
        """Return whether it can be dequantized."""
        return self.method == "fp8"


def quantization_of(checkpoint: Checkpoint, slots: Container[str] = ()) -> Quantization | None:
    """Return the quantization of a checkpoint, from its tensors and its config.json; None for plain weights.

    Args:
        checkpoint: The checkpoint.
        slots: Names in the checkpoint that match a tensor of the model. These are loaded, not used as scales.

    Raises:
        CheckpointError: An FP8 tensor has two scales.
    """
    config = quantization_config(checkpoint.directory)
    method = _declared(config)
    if method is not None and method.lower() not in FP8_METHODS:
        return Quantization(method, {}, (), (), None)
    if (found := _packed(checkpoint, slots)) is not None:
        return Quantization(f"{method}, {found}" if method and method != found else found, {}, (), (), None)
    fp8_names = [name for name, tensor in checkpoint.items() if tensor.dtype in DTYPES]
    try:
        candidates = {name: scale_of(name, checkpoint) for name in fp8_names if not _is_unused(name)}
    except CheckpointError as error:
        raise error.at(file=checkpoint.path) from None
    scales = {name: scale for name, scale in candidates.items() if scale is not None and scale not in slots}
    kept = {scale for scale in candidates.values() if scale is not None}
    unscaled = tuple(name for name, scale in candidates.items() if scale is None and name not in kept)
    unused = tuple(n for n in checkpoint if n not in slots and n not in kept and _is_unused(n)) if fp8_names else ()
    if not scales and (method is None or not fp8_names):
        return None
    return Quantization("fp8", scales, unscaled, unused, _blocks(config))


def refuse_packed(quantization: Quantization | None, path: Path) -> None:
    """Raise CheckpointError if a checkpoint is quantized in a format that cannot be dequantized."""
    if quantization is not None and not quantization.is_fp8:
        problem = f"is quantized ({printable_name(quantization.method)}), which is not supported"
        hint = (
            "use the unquantized model, or dequantize it with the library that quantized it (and remove "
            f"quantization_config from {_CONFIG})"
        )
        raise CheckpointError(problem, file=path, hint=hint)


def refuse_lost_scales(unscaled: Sequence[str], path: Path) -> None:
    """Raise CheckpointError if FP8 tensors have no scale although the checkpoint is quantized.

    Without any scale and without a declaration in config.json, FP8 tensors are plain casts and need no scale.
    """
    if unscaled:
        problem = f"is quantized (fp8), but has no scale (NAME_scale_inv or NAME_scale) for {truncated_list(unscaled)}"
        hint = f"the checkpoint is incomplete; {FETCH_AGAIN}"
        raise CheckpointError(problem, file=path, hint=hint)


def quantization_config(directory: Path) -> Mapping[str, Any]:
    """Return the `quantization_config` of a directory's config.json; empty if there is none or it is unreadable."""
    try:
        content = read_object(directory / _CONFIG)
    except (OSError, ValueError):
        return {}
    for part in (content, content.get("text_config")):
        for key in QUANTIZATION_KEYS:
            if isinstance(part, dict) and isinstance(found := part.get(key), dict):
                return found
    return {}


def _declared(config: Mapping[str, Any]) -> str | None:
    method = config.get("quant_method")
    if isinstance(method, str) and method:
        return method
    if config.get("load_in_4bit") or config.get("load_in_8bit"):
        return "bitsandbytes"
    return None


def _packed(checkpoint: Checkpoint, slots: Container[str]) -> str | None:
    packed = [name for name, tensor in checkpoint.items() if tensor.dtype in _INTEGERS or tensor.dtype in DTYPES]
    for method, ending, companions in _FORMATS:
        for name in packed:
            # An FP8 tensor with NAME_scale is not packed; it is dequantized.
            if not name.endswith(ending) or (ending in {"", ".weight"} and checkpoint[name].dtype in DTYPES):
                continue
            stem = name[: len(name) - len(ending)]
            if any(_is_companion(stem + other, checkpoint, slots) for other in companions):
                return method
    return None


def _is_companion(name: str, checkpoint: Mapping[str, StoredTensor], slots: Container[str]) -> bool:
    return name in checkpoint and name not in slots


def _is_unused(name: str) -> bool:
    leaf = name.rsplit(".", 1)[-1]
    return leaf in _UNUSED or any(leaf.endswith(f"_{ending}") for ending in _UNUSED)


def _blocks(config: Mapping[str, Any]) -> Blocks | None:
    """Return the block size that a config declares: `weight_block_size`, or `block_structure` of compressed-tensors."""
    groups = config.get("config_groups")
    weights = [g.get("weights") for g in groups.values() if isinstance(g, dict)] if isinstance(groups, dict) else []
    candidates = [config.get("weight_block_size"), *(w.get("block_structure") for w in weights if isinstance(w, dict))]
    for found in candidates:
        if isinstance(found, list) and len(found) == 2 and all(type(n) is int and n > 0 for n in found):
            return found[0], found[1]
    return None
