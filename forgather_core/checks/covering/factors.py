"""The factors of a call and their levels: what may differ between two calls that must agree.

The first level of each factor is the plain one. `RULES` are the combinations that have no meaning, or that transformers
does not define; a case satisfies all of them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

Case = Mapping[str, str]  # the level of each factor

LENGTHS = ("20", "1", "2", "33", "64", "65", "128", "129", "257", "513")
SINGLE_TOKEN_PIECES = 65  # tokens of the longest text that is fed token by token
MIN_TARGETS = 5  # tokens of the shortest text with targets in every layout


@dataclass(frozen=True)
class Factor:
    """A factor and its levels.

    Args:
        name: The name, a word.
        levels: The names of its levels, the plain one first.
    """

    name: str
    levels: tuple[str, ...]


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


FACTORS = (
    Factor("attention", ("eager", "sdpa", "flex_attention")),
    Factor("mode", ("eval", "train")),
    Factor("gradients", ("off", "on")),
    Factor("dtype", ("float32", "float64", "bfloat16", "float16", "autocast-bfloat16", "autocast-float16")),
    Factor("length", LENGTHS),
    Factor("rows", ("one", "equal", "unequal", "single-token")),
    Factor("padding", ("none", "left", "right", "both", "middle")),
    Factor("packing", ("none", "position-ids")),
    Factor("positions", ("omitted", "given")),
    Factor("mask", ("none", "2d", "4d-bool", "4d-float")),
    Factor("cache", ("none", "default", "dynamic", "static")),
    Factor("pieces", ("whole", "single", "uneven")),
    Factor("input", ("ids", "embeds")),
    Factor("keep", ("all", "last", "indices")),
    Factor("outputs", ("logits", "hidden-states", "attentions")),
    Factor("return", ("dict", "tuple")),
    Factor("labels", ("none", "all", "some-ignored", "num-items", "ignore-index", "shift-labels")),
    Factor("loss", ("full", "chunked")),
    Factor("checkpointing", ("off", "reentrant", "non-reentrant")),
    Factor("frozen", ("none", "head", "embeddings", "all-but-one")),
)

NAMES = tuple(factor.name for factor in FACTORS)
PLAIN: Case = {factor.name: factor.levels[0] for factor in FACTORS}


def is_low(case: Case) -> bool:
    """Return whether a case computes in 16 bits."""
    return case["dtype"] not in ("float32", "float64")


def _has_4d(case: Case) -> bool:
    return case["mask"].startswith("4d")


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
        ("mask", "pieces"),
        lambda c: c["pieces"] == "whole" or not _has_4d(c),
        "a 4-D mask is that of one call",
    ),
    Rule(
        ("mask", "cache"),
        lambda c: c["cache"] != "static" or not _has_4d(c),
        "the keys of a static cache are more than those of the text",
    ),
    Rule(
        ("cache", "pieces"),
        lambda c: c["pieces"] == "whole" or c["cache"] != "none",
        "pieces require a cache",
    ),
    Rule(
        ("pieces", "length"),
        lambda c: c["pieces"] != "single" or int(c["length"]) <= SINGLE_TOKEN_PIECES,
        "long texts are not fed token by token",
    ),
    Rule(
        ("gradients", "pieces", "cache"),
        lambda c: c["gradients"] == "off" or (c["pieces"] == "whole" and c["cache"] != "static"),
        "gradients are those of one call that keeps its keys",
    ),
    Rule(
        ("keep", "pieces"),
        lambda c: c["keep"] == "all" or c["pieces"] == "whole",
        "logits of a whole text are selected",
    ),
    Rule(
        ("keep", "labels"),
        lambda c: c["keep"] == "all" or c["labels"] == "none",
        "labels require the logits of all tokens",
    ),
    Rule(
        ("outputs", "pieces"),
        lambda c: c["outputs"] == "logits" or c["pieces"] == "whole",
        "hidden states of a whole text are compared",
    ),
    Rule(
        ("outputs", "attention"),
        lambda c: c["outputs"] != "attentions" or c["attention"] == "eager",
        "only eager returns attention weights",
    ),
    Rule(
        ("outputs", "cache"),
        lambda c: c["outputs"] != "attentions" or c["cache"] != "static",
        "the keys of a static cache are more than those of the text",
    ),
    Rule(
        ("labels", "pieces"),
        lambda c: c["labels"] == "none" or c["pieces"] == "whole",
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


def case_id(case: Case) -> str:
    """Return the id of a case: the levels that are not plain, or "plain"."""
    different = [f"{name}={case[name]}" for name in NAMES if case[name] != PLAIN[name]]
    return ",".join(different) or "plain"


def case_of(text: str) -> dict[str, str]:
    """Return the case of an id.

    Raises:
        ValueError: A factor or a level does not exist.
    """
    case = dict(PLAIN)
    for part in text.split(",") if text != "plain" else ():
        name, _, level = part.partition("=")
        factor = next((one for one in FACTORS if one.name == name), None)
        if factor is None or level not in factor.levels:
            raise ValueError(f"'{part}' is not a level of a factor")
        case[name] = level
    return case
