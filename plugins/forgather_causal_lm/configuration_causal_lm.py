"""The configuration of causal_lm: its options, and what transformers adds."""

from typing import TYPE_CHECKING, Any, ClassVar

from forgather_core.parts.decoder_config import DecoderConfig
from forgather_core.parts.parallel_plans import FEED_FORWARD, HEADS, STAGES

from .options import TransformerOptions

if TYPE_CHECKING:  # this line makes transformers copy the file beside this one
    from .modeling_causal_lm import TransformerForCausalLM  # noqa: F401


class TransformerConfig(TransformerOptions, DecoderConfig):
    """There is no final norm, in the plans either."""

    model_type = "forgather_causal_lm"
    built_in: ClassVar[dict[str, Any]] = {"hidden_act": "relu"}
    base_model_tp_plan: ClassVar[dict[str, str]] = HEADS | FEED_FORWARD
    base_model_pp_plan: ClassVar[dict[str, Any]] = {name: STAGES[name] for name in ("embed_tokens", "layers")}
    base_model_fsdp_plan: ClassVar[dict[str, str]] = {
        "embed_tokens": "free_full_weight",
        "layers.*": "free_full_weight",
    }


# Last, because it needs the class above: whoever loads the configuration can build the model from it.
from . import modeling_causal_lm  # noqa: E402, F401
