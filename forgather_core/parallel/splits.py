"""Refuse a split of a model over tensor-parallel processes that cannot work, before anything is built."""

from __future__ import annotations

from collections.abc import Mapping
from math import gcd
from typing import Any

from ..errors import BuildError
from ..options.parallel import ParallelSizes
from ..options.scope import joined

# Modules whose columns are heads: transformers splits attention by heads, and reshapes each process's part.
_HEADS = {"q_proj": ("num_attention_heads", "heads"), "k_proj": ("num_key_value_heads", "key/value heads")}
_SIZES = {"vocab_size": "entries of the vocabulary", "intermediate_size": "hidden channels"}


def tensor_plan(config: Any) -> Mapping[str, str]:
    """Return the tensor-parallel plan of a configuration of transformers, or of its class; empty if it has none."""
    return getattr(config, "base_model_tp_plan", None) or {}


def check_device(device: str) -> None:
    """Check that a device is one that several processes can have one each of.

    Args:
        device: The name of a device, not meta.

    Raises:
        BuildError: It is not `cpu` or `cuda`.
    """
    kind, _, index = device.partition(":")
    if kind not in {"cpu", "cuda"} or index:
        problem = f"must be cpu or cuda with several processes; got '{device}'"
        raise BuildError(problem, option="--device", hint=f"use --device {'cuda' if kind == 'cuda' else 'cpu'}")


def check_split(values: Mapping[str, Any], plan: Mapping[str, str], sizes: ParallelSizes) -> None:
    """Check that a model can be split over the processes of a mesh.

    Args:
        values: The configuration of the model, by Hugging Face's names.
        plan: The tensor-parallel plan of the model: style by pattern of module names.
        sizes: The sizes of the mesh.

    Raises:
        BuildError: Heads cannot be divided among the processes, or a process would have no rows or channels.
    """
    if sizes.tp == 1:
        return
    if not plan:
        raise BuildError("tp requires a model with a tensor-parallel plan", option="--parallel", hint="use fsdp or ddp")
    split = {name.rpartition(".")[2] for name, style in plan.items() if style == "colwise"}
    counts = {
        what: values.get(key) or values.get("num_attention_heads") or 0
        for module, (key, what) in _HEADS.items()
        if module in split
    }
    fitting = gcd(*counts.values())
    for what, count in counts.items():
        if count % sizes.tp:
            options = [f"tp={size}" for size in range(1, fitting + 1) if fitting % size == 0]
            raise _refusal(sizes, count, what, joined(options, "or") if len(options) > 1 else options[0])
    for key, what in _SIZES.items():
        count = values.get(key)
        if isinstance(count, int) and _leaves_one_empty(count, sizes.tp):
            fits = next(tp for tp in range(sizes.tp - 1, 0, -1) if not _leaves_one_empty(count, tp))
            raise _refusal(sizes, count, what, f"at most tp={fits}")


def _leaves_one_empty(count: int, parts: int) -> bool:
    """Return whether parts as large as torch makes them, all but the last equal, leave nothing for the last."""
    return -(-count // parts) * (parts - 1) >= count


def check_fused(plan: Mapping[str, str], sizes: ParallelSizes) -> None:
    """Check that parameters can be updated within backward: their gradients must be complete there.

    Args:
        plan: The tensor-parallel plan of the model.
        sizes: The sizes of the mesh.

    Raises:
        BuildError: Some gradients are summed over processes after that.
    """
    if sizes.tp > 1 and "replicated_with_grad_allreduce" in plan.values():
        problem = "does not support tp for this model: gradients of its head norms are summed after backward"
        raise BuildError(problem, option="--fuse-optim-with-backward", hint="remove it, or use fsdp")


def _refusal(sizes: ParallelSizes, count: int, what: str, fitting: str) -> BuildError:
    return BuildError(f"tp={sizes.tp} cannot split {count} {what}", option="--parallel", hint=f"use {fitting}")
