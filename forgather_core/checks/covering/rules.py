"""The combinations of levels that have no meaning, or that transformers does not define."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass

from .factors import MIN_TARGETS, SINGLE_TOKEN_CHUNKS, Case, has_4d_mask, has_fixed_size


@dataclass(frozen=True)
class Rule:
    """A condition that every case satisfies.

    Args:
        factors: The factors that it reads.
        holds: Returns whether a case satisfies it.
        reason: The reason for the condition, as a clause.
    """

    factors: tuple[str, ...]
    holds: Callable[[Case], bool]
    reason: str


RULES = (
    Rule(
        ("attention", "gradients"),
        lambda c: c["attention"] != "flex_attention" or c["gradients"] != "on",
        "flex_attention has no backward pass on the CPU",
    ),
    Rule(
        ("attention", "mask"),
        lambda c: c["attention"] != "flex_attention" or not has_4d_mask(c),
        "flex_attention does not support 4-D masks",
    ),
    Rule(
        ("rows", "padding"),
        lambda c: c["rows"] not in ("unequal", "single-token") or c["padding"] != "none",
        "rows of different lengths require padding",
    ),
    Rule(
        ("padding", "mask"),
        lambda c: c["padding"] == "none" or c["mask"] != "none",
        "padding requires a mask",
    ),
    Rule(
        ("packing", "padding"),
        lambda c: c["packing"] == "none" or c["padding"] in ("none", "right"),
        "packing supports padding on the right only",
    ),
    Rule(
        ("packing", "positions"),
        lambda c: c["packing"] == "none" or c["positions"] == "given",
        "packing requires positions=given",
    ),
    Rule(
        ("packing", "length"),
        lambda c: c["packing"] == "none" or int(c["length"]) > 2,
        "packing requires a length of 3 or more",
    ),
    Rule(
        ("padding", "mask", "positions"),
        lambda c: not has_4d_mask(c) or c["padding"] in ("none", "right") or c["positions"] == "given",
        "a 4-D mask does not show which tokens are padding, so this padding requires positions=given",
    ),
    Rule(
        ("mask", "chunks"),
        lambda c: c["chunks"] == "whole" or c["mask"] != "dict",
        "a dict of masks requires chunks=whole",
    ),
    Rule(
        ("mask", "chunks", "cache"),
        lambda c: (
            c["chunks"] == "whole" or not has_4d_mask(c) or c["cache"] in ("default", "config-off", "dynamic", "bare")
        ),
        "a 4-D mask in chunks requires a cache with all keys in their order",
    ),
    Rule(
        ("mask", "cache"),
        lambda c: not has_fixed_size(c) or not has_4d_mask(c),
        "a 4-D mask does not cover the unfilled slots of a static or reset cache",
    ),
    Rule(
        ("cache", "chunks"),
        lambda c: c["chunks"] == "whole" or c["cache"] != "none",
        "chunks require a cache",
    ),
    Rule(
        ("cache", "rows", "chunks"),
        lambda c: c["cache"] != "reordered" or (c["rows"] != "one" and c["chunks"] != "whole"),
        "cache=reordered requires several rows and several chunks",
    ),
    Rule(
        ("cache", "padding"),
        lambda c: c["cache"] != "quantized" or c["padding"] in ("none", "right"),
        "a quantized cache is scaled by its first keys, which must not be padding",
    ),
    Rule(
        ("cache", "dtype"),
        lambda c: c["cache"] != "quantized" or c["dtype"] == "float32",
        "a quantized cache, whose errors are larger than those of 16 bits, requires dtype=float32",
    ),
    Rule(
        ("chunks", "length"),
        lambda c: c["chunks"] != "single" or int(c["length"]) <= SINGLE_TOKEN_CHUNKS,
        f"chunks=single requires a length of {SINGLE_TOKEN_CHUNKS} or less",
    ),
    Rule(
        ("gradients", "chunks", "cache"),
        lambda c: (
            c["gradients"] != "on" or (c["chunks"] == "whole" and not has_fixed_size(c) and c["cache"] != "quantized")
        ),
        "gradients require chunks=whole, and a cache that is not static, reset or quantized",
    ),
    Rule(
        ("logits_to_keep", "chunks"),
        lambda c: c["logits_to_keep"] == "all" or c["chunks"] == "whole",
        "logits_to_keep requires chunks=whole",
    ),
    Rule(
        ("logits_to_keep", "labels"),
        lambda c: c["logits_to_keep"] == "all" or c["labels"] == "none",
        "labels require logits_to_keep=all",
    ),
    Rule(
        ("outputs", "chunks"),
        lambda c: c["outputs"] == "logits" or c["chunks"] == "whole",
        "hidden states and attention weights require chunks=whole",
    ),
    Rule(
        ("outputs", "attention"),
        lambda c: c["outputs"] != "attentions" or c["attention"] == "eager",
        "only eager returns attention weights",
    ),
    Rule(
        ("outputs", "return"),
        lambda c: c["outputs"] == "logits" or c["return"] == "dict",
        "hidden states and attention weights require return=dict: the entries of a tuple have no names",
    ),
    Rule(
        ("outputs", "cache"),
        lambda c: c["outputs"] != "attentions" or not has_fixed_size(c),
        "attention weights with a static or reset cache include its unfilled slots",
    ),
    Rule(
        ("labels", "chunks"),
        lambda c: c["labels"] == "none" or c["chunks"] == "whole",
        "labels require chunks=whole",
    ),
    Rule(
        ("labels", "length"),
        lambda c: c["labels"] == "none" or int(c["length"]) >= MIN_TARGETS,
        f"labels require a length of {MIN_TARGETS} or more",
    ),
    Rule(
        ("loss", "labels"),
        lambda c: c["loss"] == "full" or c["labels"] != "none",
        "a chunked loss requires labels",
    ),
    Rule(
        ("loss", "return"),
        lambda c: c["loss"] == "full" or c["return"] == "dict",
        "a chunked loss, which returns no logits, requires return=dict",
    ),
    Rule(
        ("dropout", "mode"),
        lambda c: c["dropout"] == "off" or c["mode"] == "eval",
        "dropout=on requires mode=eval: it is random in training",
    ),
    Rule(
        ("compile", "attention"),
        lambda c: c["compile"] == "off" or c["attention"] != "flex_attention",
        "flex_attention is not compiled on the CPU",
    ),
    Rule(
        ("compile", "chunks"),
        lambda c: c["compile"] == "off" or c["chunks"] == "whole",
        "compile=on requires chunks=whole: each chunk length would be compiled separately",
    ),
    Rule(
        ("compile", "checkpointing"),
        lambda c: c["compile"] == "off" or c["checkpointing"] == "off",
        "compile=on requires checkpointing=off: each layer would be compiled separately",
    ),
    Rule(
        ("compile", "outputs"),
        lambda c: c["compile"] == "off" or c["outputs"] == "logits",
        "transformers collects hidden states and attention weights outside of the graph",
    ),
    Rule(
        ("checkpointing", "mode"),
        lambda c: c["checkpointing"] == "off" or c["mode"] == "train",
        "gradient checkpointing requires mode=train",
    ),
    Rule(
        ("checkpointing", "frozen"),
        lambda c: c["checkpointing"] != "reentrant" or c["frozen"] not in ("embeddings", "all-but-one"),
        "reentrant checkpointing requires trainable embeddings",
    ),
    Rule(
        ("frozen", "gradients"),
        lambda c: c["frozen"] == "none" or c["gradients"] == "on",
        "frozen parameters require gradients=on",
    ),
    Rule(
        ("gradients", "dtype"),
        lambda c: (
            c["gradients"] != "on"
            or not c["dtype"].endswith("float16")
            or c["dtype"] == "autocast-bfloat16"
            or c["dtype"] == "bfloat16"
        ),
        "gradients overflow in float16: use another dtype, or no gradients",
    ),
)


def violated(case: Case, rules: Collection[Rule] = RULES) -> Rule | None:
    """Return the first rule that a case violates, or None."""
    return next((rule for rule in rules if not rule.holds(case)), None)
