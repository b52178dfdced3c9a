"""The combinations of levels that have no meaning, or that transformers does not define."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from .factors import MIN_TARGETS, SINGLE_TOKEN_CHUNKS, Case, has_fixed_size


@dataclass(frozen=True)
class Rule:
    """A condition that every case satisfies.

    Args:
        factors: The factors that it reads.
        holds: Returns whether a case satisfies it.
        reason: The reason, one sentence.
    """

    factors: tuple[str, ...]
    holds: Callable[[Case], bool]
    reason: str


def _has_4d(case: Case) -> bool:
    return case["mask"] in ("4d-bool", "4d-float", "dict")


RULES = (
    Rule(
        ("attention", "gradients"),
        lambda c: c["attention"] != "flex_attention" or c["gradients"] == "off",
        "flex_attention has no backward pass on the CPU",
    ),
    Rule(
        ("attention", "mask"),
        lambda c: c["attention"] != "flex_attention" or not _has_4d(c),
        "flex_attention takes block masks instead of 4-D masks",
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
        "packed rows are padded on the right",
    ),
    Rule(
        ("packing", "positions"),
        lambda c: c["packing"] == "none" or c["positions"] == "given",
        "packing is expressed by positions",
    ),
    Rule(
        ("packing", "length"),
        lambda c: c["packing"] == "none" or int(c["length"]) > 2,
        "several documents require several tokens",
    ),
    Rule(
        ("padding", "mask", "positions"),
        lambda c: not _has_4d(c) or c["padding"] in ("none", "right") or c["positions"] == "given",
        "a 4-D mask does not show which tokens are padding",
    ),
    Rule(
        ("mask", "chunks"),
        lambda c: c["chunks"] == "whole" or not _has_4d(c),
        "a 4-D mask is that of one call",
    ),
    Rule(
        ("mask", "cache"),
        lambda c: not has_fixed_size(c) or not _has_4d(c),
        "the keys of a static cache are more than those of the text",
    ),
    Rule(
        ("cache", "chunks"),
        lambda c: c["chunks"] == "whole" or c["cache"] != "none",
        "chunks require a cache",
    ),
    Rule(
        ("cache", "rows", "chunks"),
        lambda c: c["cache"] != "reordered" or (c["rows"] != "one" and c["chunks"] != "whole"),
        "rows of a cache are reordered between chunks",
    ),
    Rule(
        ("cache", "padding"),
        lambda c: c["cache"] != "quantized" or c["padding"] in ("none", "right"),
        "a quantized cache is scaled by its first keys, which must not be padding",
    ),
    Rule(
        ("cache", "dtype"),
        lambda c: c["cache"] != "quantized" or c["dtype"] == "float32",
        "the errors of a quantized cache are larger than those of 16 bits",
    ),
    Rule(
        ("chunks", "length"),
        lambda c: c["chunks"] != "single" or int(c["length"]) <= SINGLE_TOKEN_CHUNKS,
        "long texts are not passed token by token",
    ),
    Rule(
        ("gradients", "chunks", "cache"),
        lambda c: (
            c["gradients"] == "off" or (c["chunks"] == "whole" and not has_fixed_size(c) and c["cache"] != "quantized")
        ),
        "gradients are those of one call that keeps its keys",
    ),
    Rule(
        ("logits_to_keep", "chunks"),
        lambda c: c["logits_to_keep"] == "all" or c["chunks"] == "whole",
        "logits of a whole text are selected",
    ),
    Rule(
        ("logits_to_keep", "labels"),
        lambda c: c["logits_to_keep"] == "all" or c["labels"] == "none",
        "labels require the logits of all tokens",
    ),
    Rule(
        ("outputs", "chunks"),
        lambda c: c["outputs"] == "logits" or c["chunks"] == "whole",
        "hidden states of a whole text are compared",
    ),
    Rule(
        ("outputs", "attention"),
        lambda c: c["outputs"] != "attentions" or c["attention"] == "eager",
        "only eager returns attention weights",
    ),
    Rule(
        ("outputs", "return"),
        lambda c: c["outputs"] == "logits" or c["return"] == "dict",
        "the entries of a tuple have no names",
    ),
    Rule(
        ("outputs", "cache"),
        lambda c: c["outputs"] != "attentions" or not has_fixed_size(c),
        "the keys of a static cache are more than those of the text",
    ),
    Rule(
        ("labels", "chunks"),
        lambda c: c["labels"] == "none" or c["chunks"] == "whole",
        "a loss is that of a whole text",
    ),
    Rule(
        ("labels", "length"),
        lambda c: c["labels"] == "none" or int(c["length"]) >= MIN_TARGETS,
        "a loss requires targets",
    ),
    Rule(
        ("loss", "labels"),
        lambda c: c["loss"] == "full" or c["labels"] != "none",
        "a chunked loss requires labels",
    ),
    Rule(
        ("loss", "return"),
        lambda c: c["loss"] == "full" or c["return"] == "dict",
        "a chunked loss returns no logits",
    ),
    Rule(
        ("dropout", "mode"),
        lambda c: c["dropout"] == "off" or c["mode"] == "eval",
        "dropout is random in training",
    ),
    Rule(
        ("compile", "attention"),
        lambda c: c["compile"] == "off" or c["attention"] != "flex_attention",
        "flex_attention is not compiled on the CPU",
    ),
    Rule(
        ("compile", "chunks"),
        lambda c: c["compile"] == "off" or c["chunks"] == "whole",
        "each length of a chunk would be compiled",
    ),
    Rule(
        ("compile", "checkpointing"),
        lambda c: c["compile"] == "off" or c["checkpointing"] == "off",
        "each checkpointed layer would be compiled by itself",
    ),
    Rule(
        ("compile", "outputs"),
        lambda c: c["compile"] == "off" or c["outputs"] == "logits",
        "transformers collects hidden states and attention weights outside of the graph",
    ),
    Rule(
        ("checkpointing", "gradients", "mode"),
        lambda c: c["checkpointing"] == "off" or (c["gradients"] == "on" and c["mode"] == "train"),
        "gradient checkpointing requires training",
    ),
    Rule(
        ("checkpointing", "frozen", "input"),
        lambda c: c["checkpointing"] != "reentrant" or c["frozen"] not in ("embeddings", "all-but-one"),
        "reentrant checkpointing requires inputs with gradients",
    ),
    Rule(
        ("frozen", "gradients"),
        lambda c: c["frozen"] == "none" or c["gradients"] == "on",
        "frozen parameters are those without gradients",
    ),
    Rule(
        ("gradients", "dtype"),
        lambda c: (
            c["gradients"] == "off"
            or not c["dtype"].endswith("float16")
            or c["dtype"] == "autocast-bfloat16"
            or c["dtype"] == "bfloat16"
        ),
        "gradients overflow in float16",
    ),
)


def violated(case: Case, rules: tuple[Rule, ...] = RULES) -> Rule | None:
    """Return the first rule that a case violates, or None."""
    return next((rule for rule in rules if not rule.holds(case)), None)
