"""The levels of each factor that apply to a model."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Any

import torch

from ...training.loss import can_skip_logits
from ..shared.cached_forward import cache_in, has_positions, takes_cache, takes_static_cache
from ..shared.implementations import can_exchange_attention
from ..shared.layers import is_recurrent, windows_of
from ..shared.model_under_test import ATTENTIONS, FLEX, ModelUnderTest
from ..shared.position_encoding import kind_of, switching_length
from .caches import SPARE, quantized_cache
from .factors import FACTORS, LENGTHS, Case, has_4d_mask
from .models import fewer_positions
from .rules import RULES, Rule

FEWER_POSITIONS = "the model has fewer positions"
DIFFERENT_MASKS = "the layers have different masks"
COLUMNS = "a sliding window counts columns, padding included"
FLOAT32_ANGLES = "transformers' classes keep float32 angles after from_pretrained only"
PACKING = "transformers' classes detect packing in one kind of call only"
NO_POSITIONS = "the model takes no position_ids"
NOT_WITHIN = "generate() pads on the left only, and loaders on the right"
NOT_STATIC = "transformers marks the class as one without static caches"
NO_CACHE = "the model has no cache"
RECURRENT = "recurrent layers take a mask of tokens only"
ADDED_MASK = "transformers' eager attention adds a mask of bool to the scores"
LATER_MASK = "transformers' masks for a static cache are those of later queries"
ONE_MASK = "the model takes one mask for all layers"
NOT_CROPPED = "a cache of this model cannot forget its latest tokens"
NOT_BARE = "the cache of this model has other layers than those of attention"
ONE_ATTENTION = "the model has one attention implementation, or cannot exchange it"
NOT_QUANTIZED = "transformers has no quantized cache for this model"
NO_DROPOUT = "the model has no dropout"
NO_SPECIAL = "the model has no special tokens"
NO_LOGITS_TO_KEEP = "the model takes no logits_to_keep"
NO_SKIP_LOGITS = "the model has no skip_logits"
NO_CHECKPOINTING = "the model does not support gradient checkpointing"

_LEVELS_OF_CACHE = next(one.levels[1:] for one in FACTORS if one.name == "cache")

_CHECKPOINTING = Rule(
    ("checkpointing", "gradients"),
    lambda case: case["checkpointing"] == "off" or case["gradients"] == "on",
    "many models drop the cache under gradient checkpointing, with and without gradients",
)


_NO_CHECKPOINTED_CACHE = Rule(
    ("checkpointing", "cache"),
    lambda case: case["checkpointing"] == "off" or case["cache"] == "none",
    "many models add the keys of recomputed layers to a given cache again",
)


_NO_TRAINING_CACHE = Rule(
    ("mode", "cache"),
    lambda case: case["mode"] == "eval" or case["cache"] != "default",
    "the model makes no cache in training",
)


_WHOLE_PADDING = Rule(
    ("padding", "chunks"),
    lambda case: case["padding"] == "none" or case["chunks"] == "whole",
    "recurrent layers skip padding in the first chunk only, which has the whole prompt in generate()",
)


_WHOLE_MASK = Rule(
    ("mask", "chunks"),
    lambda case: case["chunks"] == "whole" or not has_4d_mask(case),
    "a sliding window drops keys from the cache, which a 4-D mask in chunks covers",
)


def inapplicable_levels(subject: ModelUnderTest, *, promised: bool = True) -> dict[str, str]:
    """Return the levels that do not apply to a model, as "factor=level", with the reason.

    Args:
        subject: The model under test.
        promised: Leave out levels whose results transformers' classes do not promise. Two implementations of a model
            give the same results with these levels, too.
    """
    model = subject.on_meta()
    left_out = {f"attention={name}": why for name, why in subject.refused_attention.items() if name in ATTENTIONS}
    if promised and not subject.made_by_forgather:
        left_out |= {f"dtype={name}": FLOAT32_ANGLES for name in ("float64", "bfloat16", "float16")}
        left_out |= {"made=after-other-dtype": FLOAT32_ANGLES, "packing=position-ids": PACKING}
        left_out.setdefault("attention=flex_attention", LATER_MASK)
    if len({"eager", "sdpa"} - subject.refused_attention.keys()) < 2 or not can_exchange_attention(type(model)):
        left_out["made=after-other-attention"] = ONE_ATTENTION
    left_out |= {f"length={length}": reason for length, reason in _lengths(subject, model)}
    left_out |= {f"mask={kind}": reason for kind, reason in _masks(subject, model)}
    left_out |= {f"cache={kind}": reason for kind, reason in _caches(subject, model)}
    if not has_positions(subject, model):
        left_out |= {"positions=given": NO_POSITIONS, "packing=position-ids": NO_POSITIONS}
    if any(windows_of(subject)):
        left_out["padding=middle"] = COLUMNS
    elif promised and not subject.made_by_forgather:
        left_out["padding=middle"] = NOT_WITHIN
    if is_recurrent(model):
        left_out |= dict.fromkeys(("mask=4d-bool", "mask=4d-float", "mask=dict"), RECURRENT)
    if not takes_static_cache(subject, model):
        left_out |= dict.fromkeys(("cache=static", "cache=reset"), NOT_STATIC)
    if not subject.no_dropout or subject.default_attention == FLEX:
        left_out["dropout=on"] = NO_DROPOUT
    if not subject.special_ids:
        left_out["labels=special"] = NO_SPECIAL
    if not subject.made_by_forgather and "logits_to_keep" not in inspect.signature(model.forward).parameters:
        left_out |= dict.fromkeys(("logits_to_keep=last", "logits_to_keep=indices"), NO_LOGITS_TO_KEEP)
    if not can_skip_logits(model):
        left_out["loss=chunked"] = NO_SKIP_LOGITS
    if not model.supports_gradient_checkpointing:
        left_out |= dict.fromkeys(("checkpointing=reentrant", "checkpointing=non-reentrant"), NO_CHECKPOINTING)
    return left_out


def rules_of(subject: ModelUnderTest, *, promised: bool = True) -> tuple[Rule, ...]:
    """Return the conditions that the cases of a model satisfy: those of every model, and those of its RoPE.

    Args:
        subject: The model under test.
        promised: As for `inapplicable_levels`.
    """
    limit = switching_length(subject.config(**fewer_positions(subject)).get_text_config())
    if not promised:
        return RULES if limit is None else (*RULES, _switching_rule(limit))
    own: tuple[Rule, ...] = () if subject.made_by_forgather else (_CHECKPOINTING, _NO_CHECKPOINTED_CACHE)
    if is_recurrent(subject.on_meta()):
        own = (*own, _WHOLE_PADDING)
    if not subject.made_by_forgather and _makes_no_cache_in_training(subject):
        own = (*own, _NO_TRAINING_CACHE)
    if any(windows_of(subject)):
        own = (*own, _WHOLE_MASK)
    if limit is None:
        return (*RULES, *own)
    return (*RULES, *own, _switching_rule(limit) if subject.made_by_forgather else _length_rule(limit))


@torch.no_grad()
def _makes_no_cache_in_training(subject: ModelUnderTest) -> bool:
    model, text = subject.randomized_model(), subject.tokens(1)
    return cache_in(model(text)) is not None and cache_in(model.train()(text)) is None


def _length_rule(limit: int) -> Rule:
    reason = f"from {limit} tokens on, transformers' classes keep the frequencies of longer texts"
    return Rule(("length",), lambda case: int(case["length"]) <= limit - SPARE, reason)


def _switching_rule(limit: int) -> Rule:
    """Return the condition of a RoPE whose frequencies depend on the longest text of a call.

    Args:
        limit: The length beyond which they change.
    """

    def holds(case: Case) -> bool:
        one_length = case["rows"] in ("one", "equal") and case["packing"] == "none" and case["chunks"] == "whole"
        keeps_all = case["cache"] not in ("reset", "cropped", "quantized")
        columns_are_positions = case["padding"] == "none" or case["positions"] == "given"
        return int(case["length"]) <= limit - SPARE or (one_length and keeps_all and columns_are_positions)

    names = ("length", "rows", "packing", "chunks", "cache", "padding", "positions")
    reason = (
        f"beyond {limit} tokens the frequencies of RoPE depend on the longest text of a call, so all texts must be "
        "equally long, computed in one call"
    )
    return Rule(names, holds, reason)


def _lengths(subject: ModelUnderTest, model: Any) -> Iterator[tuple[str, str]]:
    content = subject.text_config.to_dict() | fewer_positions(subject)
    positions = content.get("max_position_embeddings")
    if positions is not None and kind_of(model) != "relative":
        yield from ((length, FEWER_POSITIONS) for length in LENGTHS if int(length) > positions - SPARE)


def _masks(subject: ModelUnderTest, model: Any) -> Iterator[tuple[str, str]]:
    kinds = set(getattr(subject.text_config, "layer_types", None) or ())
    if len(set(windows_of(subject))) > 1 or (len(kinds) > 1 and not subject.made_by_forgather):
        yield from (("4d-bool", DIFFERENT_MASKS), ("4d-float", DIFFERENT_MASKS))
    elif not subject.made_by_forgather:
        yield "4d-bool", ADDED_MASK
    if not _takes_a_mask_per_layer_type(subject, model):
        yield "dict", ONE_MASK


def _caches(subject: ModelUnderTest, model: Any) -> Iterator[tuple[str, str]]:
    if not (subject.made_by_forgather or takes_cache(model)):
        yield from ((level, NO_CACHE) for level in _LEVELS_OF_CACHE)
    if not _is_croppable(subject):
        yield "cropped", NOT_CROPPED
    if not _layers_of_cache(subject) <= {"DynamicLayer", "DynamicSlidingWindowLayer"}:
        yield "bare", NOT_BARE
    try:
        quantized_cache(subject.text_config)
    except (ImportError, TypeError, ValueError):
        yield "quantized", NOT_QUANTIZED


def _takes_a_mask_per_layer_type(subject: ModelUnderTest, model: Any) -> bool:
    """Return whether attention_mask may be a dict: one mask for each layer type."""
    if subject.made_by_forgather:
        return True
    forward = inspect.unwrap(type(model.base_model).forward)
    return "attention_mask, dict" in inspect.getsource(forward)


def _is_croppable(subject: ModelUnderTest) -> bool:
    """Return whether each layer of a cache keeps all keys."""
    return _layers_of_cache(subject) <= {"DynamicLayer"}


def _layers_of_cache(subject: ModelUnderTest) -> set[str]:
    """Return the names of the classes of layers that a cache of the model has."""
    from transformers import DynamicCache

    return {type(layer).__name__ for layer in DynamicCache(config=subject.text_config).layers}
