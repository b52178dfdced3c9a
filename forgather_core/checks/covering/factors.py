"""The factors of a call and their levels, which may differ between two calls that must agree.

The first level of each factor is the plain one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

Case = Mapping[str, str]  # the level of each factor

LENGTHS = ("20", "1", "2", "33", "64", "65", "128", "129", "257", "512", "513")
POSITIONS = 512  # max_position_embeddings of the models, if it is larger
SINGLE_TOKEN_CHUNKS = 65  # tokens of the longest text that is passed token by token
MIN_TARGETS = 5  # tokens of the shortest text with targets in every layout


@dataclass(frozen=True)
class Factor:
    """A factor and its levels.

    Args:
        name: The name.
        levels: The names of its levels, the plain one first.
        quick: The levels of a quick run; None means all.
        look_at: The code in which its levels differ, where a mistake is likely.
    """

    name: str
    levels: tuple[str, ...]
    quick: tuple[str, ...] | None = None
    look_at: str = ""


FACTORS = (
    Factor("attention", ("eager", "sdpa", "flex_attention"), None, "the attention function and its mask"),
    Factor(
        "made",
        (
            "from-config",
            "from-pretrained",
            "meta",
            "pickled",
            "deep-copied",
            "before-another",
            "after-another",
            "after-other-dtype",
            "after-other-attention",
        ),
        ("from-config", "from-pretrained", "before-another"),
        "buffers, and values that a class or a module keeps",
    ),
    Factor("mode", ("eval", "train"), None, "branches on self.training"),
    Factor("dropout", ("off", "on"), None, "dropout outside of training"),
    Factor("gradients", ("off", "on", "inference-mode"), None, "detached tensors and operations in place"),
    Factor(
        "dtype",
        ("float32", "float64", "bfloat16", "float16", "autocast-bfloat16", "autocast-float16"),
        ("float32", "bfloat16"),
        "the dtype of norms, softmax, positions and constants",
    ),
    Factor("length", LENGTHS, ("20", "1", "65", "513"), "blocks, windows and tables of a fixed length"),
    Factor("rows", ("one", "equal", "unequal", "single-token"), None, "broadcasts over rows"),
    Factor(
        "padding",
        ("none", "left", "right", "both", "middle"),
        ("none", "left", "right", "middle"),
        "the mask and the positions of padded rows",
    ),
    Factor("packing", ("none", "position-ids"), None, "the borders of documents"),
    Factor("positions", ("omitted", "given"), None, "the default of position_ids"),
    Factor("mask", ("none", "2d", "4d-bool", "4d-float", "dict"), None, "how the given mask is used"),
    Factor(
        "cache",
        ("none", "default", "config-off", "dynamic", "bare", "static", "reset", "cropped", "reordered", "quantized"),
        ("none", "default", "dynamic", "bare", "static"),
        "cached keys, values and lengths",
    ),
    Factor("chunks", ("whole", "single", "uneven"), None, "positions and masks of later chunks"),
    Factor("input", ("ids", "embeds"), None, "operations between input_ids and embeddings"),
    Factor("logits_to_keep", ("all", "last", "indices"), None, "the selection of logits"),
    Factor("outputs", ("logits", "hidden-states", "attentions"), None, "requested outputs"),
    Factor("return", ("dict", "tuple"), None, "return_dict"),
    Factor(
        "labels",
        ("none", "all", "some-ignored", "all-ignored", "special", "num-items", "ignore-index", "shift-labels"),
        ("none", "all", "some-ignored", "num-items"),
        "the loss: its shift, its ignored targets, its divisor",
    ),
    Factor("loss", ("full", "chunked"), None, "the chunked loss"),
    Factor("checkpointing", ("off", "reentrant", "non-reentrant"), ("off", "non-reentrant"), "recomputed layers"),
    Factor("frozen", ("none", "head", "embeddings", "all-but-one"), ("none",), "gradients of frozen parameters"),
    Factor("compile", ("off", "on"), ("off",), "Python code that depends on values or on earlier calls"),
)

# The cases of this level take seconds: it is combined with the others in as few cases as possible. No rule requires it.
SLOW = ("compile", "on")
NAMES = tuple(factor.name for factor in FACTORS)
PLAIN: Case = {factor.name: factor.levels[0] for factor in FACTORS}


def is_low(case: Case) -> bool:
    """Return whether a case computes in 16 bits, or keeps keys and values in 8."""
    return case["dtype"] not in ("float32", "float64") or case["cache"] == "quantized"


def has_fixed_size(case: Case) -> bool:
    """Return whether the cache of a case has more keys than the text."""
    return case["cache"] in ("static", "reset")


def has_4d_mask(case: Case) -> bool:
    """Return whether the mask of a case has a row for each query."""
    return case["mask"] in ("4d-bool", "4d-float", "dict")


def case_id(case: Case) -> str:
    """Return the id of a case: the levels that are not plain, or "plain"."""
    different = [f"{name}={case[name]}" for name in NAMES if case[name] != PLAIN[name]]
    return ",".join(different) or "plain"


def case_of(text: str) -> dict[str, str]:
    """Parse the id of a case.

    Raises:
        ValueError: A factor or a level does not exist, or a factor has two levels.
    """
    given: dict[str, str] = {}
    for part in map(str.strip, text.split(",") if text != "plain" else ()):
        name, _, level = part.partition("=")
        factor = next((one for one in FACTORS if one.name == name), None)
        if factor is None:
            raise ValueError(f"'{part}' is not a level of a factor, FACTOR=LEVEL (factors: {', '.join(NAMES)})")
        if level not in factor.levels:
            raise ValueError(f"{name} must be one of {', '.join(factor.levels)}; got '{level}'")
        if given.setdefault(name, level) != level:
            raise ValueError(f"{name} has two levels, '{given[name]}' and '{level}'")
    return {**PLAIN, **given}


def differing(case: Case) -> frozenset[tuple[str, str]]:
    """Return the levels of a case that are not plain."""
    return frozenset((name, level) for name, level in case.items() if level != PLAIN[name])
