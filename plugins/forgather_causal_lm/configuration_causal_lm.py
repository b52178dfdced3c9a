"""Configuration class of causal_lm: its options and the fields of transformers."""

from typing import TYPE_CHECKING, Any, ClassVar

from forgather_core.parts.decoder_config import DecoderConfig
from forgather_core.parts.parallel_plans import FEED_FORWARD, HEADS, STAGES

from .options import TransformerOptions

if TYPE_CHECKING:  # makes transformers copy this file
    from .modeling_causal_lm import TransformerForCausalLM  # noqa: F401


class TransformerConfig(TransformerOptions, DecoderConfig):
    """Configuration of the original transformer; the plans contain no final norm."""

    model_type = "forgather_causal_lm"
    built_in: ClassVar[dict[str, Any]] = {"hidden_act": "relu"}
    base_model_tp_plan: ClassVar[dict[str, str]] = HEADS | FEED_FORWARD
    base_model_pp_plan: ClassVar[dict[str, Any]] = {name: STAGES[name] for name in ("embed_tokens", "layers")}
    base_model_fsdp_plan: ClassVar[dict[str, str]] = {
        "embed_tokens": "free_full_weight",
        "layers.*": "free_full_weight",
    }


# Last, since it requires the class above: loading the configuration registers its model.
from . import modeling_causal_lm  # noqa: E402, F401
