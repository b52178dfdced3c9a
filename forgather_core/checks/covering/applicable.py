"""The levels of each factor that apply to a model."""

from __future__ import annotations

from ...training.loss import can_skip_logits
from ..model_under_test import ATTENTIONS, ModelUnderTest
from .factors import FACTORS

_SPARE_POSITIONS = 4  # a static cache has as many more than the text

FEWER_POSITIONS = "the model has fewer positions"
DIFFERENT_MASKS = "the layers have different masks"
COLUMNS = "a sliding window counts columns, padding included"
FLOAT32_ANGLES = "transformers' classes keep float32 angles after from_pretrained only"
PACKING = "transformers' classes detect packing in one kind of call only"
ADDED_MASK = "transformers' eager attention adds a mask of bool to the scores"
LATER_MASK = "transformers' masks for a static cache are those of later queries"
NO_SKIP_LOGITS = "the model has no skip_logits"
NO_CHECKPOINTING = "the model does not support gradient checkpointing"


def applicable_levels(subject: ModelUnderTest) -> dict[str, tuple[str, ...]]:
    """Return the levels of each factor that apply to a model."""
    left_out = inapplicable_levels(subject)
    return {
        factor.name: tuple(level for level in factor.levels if f"{factor.name}={level}" not in left_out)
        for factor in FACTORS
    }


def inapplicable_levels(subject: ModelUnderTest) -> dict[str, str]:
    """Return the levels that do not apply to a model, as "factor=level", with the reason."""
    model = subject.on_meta()
    left_out = {f"attention={name}": why for name, why in subject.refused_attention.items() if name in ATTENTIONS}
    if subject.is_builtin:
        left_out |= dict.fromkeys(("dtype=float64", "dtype=bfloat16", "dtype=float16"), FLOAT32_ANGLES)
        left_out |= {"packing=position-ids": PACKING, "mask=4d-bool": ADDED_MASK}
        left_out.setdefault("attention=flex_attention", LATER_MASK)
    positions = getattr(subject.text_config, "max_position_embeddings", None)
    lengths = next(factor.levels for factor in FACTORS if factor.name == "length")
    if positions is not None:
        long = (length for length in lengths if int(length) > positions - _SPARE_POSITIONS)
        left_out |= {f"length={length}": FEWER_POSITIONS for length in long}
    windows = windows_of(subject)
    if len(set(windows)) > 1:
        left_out |= dict.fromkeys(("mask=4d-bool", "mask=4d-float"), DIFFERENT_MASKS)
    if any(windows):
        left_out["padding=middle"] = COLUMNS
    if not can_skip_logits(model):
        left_out["loss=chunked"] = NO_SKIP_LOGITS
    if not model.supports_gradient_checkpointing:
        left_out |= dict.fromkeys(("checkpointing=reentrant", "checkpointing=non-reentrant"), NO_CHECKPOINTING)
    return left_out


def windows_of(subject: ModelUnderTest) -> tuple[int | None, ...]:
    """Return the sliding window of each layer; None for a layer without one."""
    kinds = getattr(subject.text_config, "layer_types", None)
    if not kinds:
        count: int = subject.text_config.num_hidden_layers
        return (subject.window,) * count
    return tuple(subject.window if kind == "sliding_attention" else None for kind in kinds)
