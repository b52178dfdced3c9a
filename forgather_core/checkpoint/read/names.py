"""Match the names of a checkpoint with a model's, ignoring the prefixes of wrappers and base models."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...errors import CheckpointError
from ...filesystem.printable import printable_name, tensors

# Modules that wrap a model and add their own name: DataParallel and DDP, torch.compile, FSDP, activation checkpointing.
_WRAPPERS = frozenset({"module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"})
_PEFT = ("base_model", "model")
_PEFT_LAYER = "base_layer"
_ADAPTERS = (
    "lora_A", "lora_B", "lora_embedding_A", "lora_embedding_B", "lora_magnitude_vector", "ia3_l", "hada_w1_a",
    "hada_w1_b", "hada_w2_a", "hada_w2_b", "lokr_w1", "lokr_w2", "oft_r", "oft_R", "vera_lambda_b", "vera_lambda_d",
    "prompt_embeddings", "prompt_encoder",
)  # fmt: skip
_DEPTH = 3  # maximum number of leading components that a hint adds or removes


@dataclass(frozen=True)
class Matching:
    """The names of a checkpoint that match names of a model.

    Args:
        names: The model's name by the checkpoint's name, for those that match.
        notes: Prefixes that were removed or added, one sentence each.
    """

    names: Mapping[str, str]
    notes: tuple[str, ...]


def match_names(
    stored: Collection[str], slots: Collection[str], base_prefix: str, equal: Callable[[str, str], bool], file: Path
) -> Matching:
    """Find the name in the model of each stored tensor: the same name, or a name that differs only in prefixes.

    A prefix is ignored only if that makes a name match. Wrappers' names (`module`, `_orig_mod`, FSDP's, activation
    checkpointing's, PEFT's `base_model.model` and `base_layer`) may appear anywhere in a name, in any combination, on
    either side. `base_prefix` is the prefix that a transformers model adds to the names of its base model.

    Args:
        stored: The names in the checkpoint.
        slots: The names of the tensor slots of the model.
        base_prefix: The model's `base_model_prefix`; "" if it has none.
        equal: Returns whether two stored tensors are equal.
        file: The checkpoint, for error messages.

    Raises:
        CheckpointError: Two different stored tensors match the same name of the model.
    """
    if all(name in slots for name in stored):
        return Matching({name: name for name in stored}, ())
    by_bare: dict[str, list[str]] = {}
    for slot in slots:
        by_bare.setdefault(bare(slot), []).append(slot)
    found: dict[str, str] = {}
    taken: dict[str, str] = {}
    changes: Counter[str] = Counter()
    for name in sorted(stored, key=lambda name: name not in slots):  # exact matches first
        match = name if name in slots else _matching_slot(name, by_bare, base_prefix)
        if match is None:
            continue
        if (other := taken.setdefault(match, name)) == name:
            found[name] = match
            changes.update(_changes(name, match, base_prefix) if name != match else ())
        elif not equal(name, other):
            problem = f"'{printable_name(other)}' and '{printable_name(name)}' both match '{match}' of the model"
            raise CheckpointError(problem, file=file, hint="remove one of them from the file")
    return Matching(found, tuple(f"names of {tensors(count)} matched {change}" for change, count in changes.items()))


def bare(name: str) -> str:
    """Return a name without the components that wrappers add."""
    parts = [part for part in name.split(".") if part not in _WRAPPERS]
    kept: list[str] = []
    for part in parts:
        if part == _PEFT[1] and kept and kept[-1] == _PEFT[0]:
            kept.pop()
        elif part != _PEFT_LAYER:
            kept.append(part)
    return ".".join(kept)


def _matching_slot(name: str, by_bare: Mapping[str, list[str]], base_prefix: str) -> str | None:
    key, dot = bare(name), f"{base_prefix}."
    keys = [key]
    if base_prefix:
        keys += [dot + key, *([key.removeprefix(dot)] if key.startswith(dot) else [])]
    for candidate in keys:
        if candidate in by_bare:
            return _nearest(name, by_bare[candidate])
    return None


def _nearest(name: str, candidates: list[str]) -> str:
    """Return the candidate that shares the most components with `name`. Candidates differ only in wrappers."""
    parts = Counter(name.split("."))
    return max(candidates, key=lambda slot: ((parts & (own := Counter(slot.split(".")))).total(), -own.total()))


def _changes(name: str, slot: str, base_prefix: str) -> list[str]:
    in_model, in_checkpoint = Counter(slot.split(".")), Counter(name.split("."))
    removed, added = in_checkpoint - in_model, in_model - in_checkpoint
    wrapped = [w for w in sorted(_WRAPPERS | {_PEFT_LAYER}) if w in removed]
    found = [f"without '{part}.'" for part in wrapped]
    found += [f"with '{part}.' of the model" for part in sorted(_WRAPPERS | {_PEFT_LAYER}) if part in added]
    if _PEFT[0] in removed:
        found.append(f"without '{'.'.join(_PEFT)}.'")
        removed -= Counter(_PEFT)
    if base_prefix:
        if bare(slot) == f"{base_prefix}.{bare(name)}":
            found.append(f"with '{base_prefix}.' added (a base model's checkpoint)")
        elif bare(name) == f"{base_prefix}.{bare(slot)}":
            found.append(f"without '{base_prefix}.' (the model is a base model)")
    return found


def base_prefix_of(model: Any) -> str:
    """Return the prefix that transformers adds to the names of the base model; "" for other models."""
    for candidate in model.modules():
        prefix = getattr(candidate, "base_model_prefix", None)
        if isinstance(prefix, str):
            return prefix
        if sum(1 for _ in candidate.children()) > 1:
            break  # a model, not a wrapper
    return ""


def is_adapter(name: str) -> bool:
    """Return whether a tensor belongs to an adapter (PEFT's LoRA and others), which modifies a weight."""
    return any(part in _ADAPTERS for part in name.split("."))


def adapted_module(name: str) -> str:
    """Return the bare name of the module that an adapter tensor modifies."""
    parts = name.split(".")
    at = next((n for n, part in enumerate(parts) if part in _ADAPTERS), len(parts))
    return bare(".".join(parts[:at]))


def mismatch_hint(stored: Iterable[str], slots: Collection[str]) -> str | None:
    """Return a hint with the prefix to add or remove so that most tensors match; None if there is none."""
    bare_slots = {bare(slot) for slot in slots}
    suffixes: dict[str, str] = {}
    for slot in bare_slots:
        parts = slot.split(".")
        for n in range(1, min(_DEPTH, len(parts) - 1) + 1):
            suffixes.setdefault(".".join(parts[n:]), ".".join(parts[:n]))
    found: Counter[str] = Counter()
    for name in stored:
        key = bare(name)
        parts = key.split(".")
        for n in range(1, min(_DEPTH, len(parts) - 1) + 1):
            if ".".join(parts[n:]) in bare_slots:
                found[f"rename them without '{'.'.join(parts[:n])}.'"] += 1
        if key in suffixes and key not in bare_slots:
            found[f"rename them with the prefix '{suffixes[key]}.'"] += 1
    if not found:
        return None
    rename, count = found.most_common(1)[0]
    return f"{tensors(count)} would match: {printable_name(rename)}" if count > 1 or len(bare_slots) == 1 else None
