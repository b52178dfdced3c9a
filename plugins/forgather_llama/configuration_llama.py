"""The configuration of llama: its options, and what transformers adds."""

from typing import TYPE_CHECKING, Any, ClassVar

from forgather_core.parts.decoder_config import DecoderConfig
from forgather_core.parts.parallel_plans import GATED_FEED_FORWARD, HEADS

from .options import LlamaOptions

if TYPE_CHECKING:  # this line makes transformers copy the file beside this one
    from .modeling_llama import LlamaForCausalLM  # noqa: F401


class LlamaConfig(LlamaOptions, DecoderConfig):
    """Names are those of transformers' LlamaConfig, and a config.json of it can be given as keywords."""

    model_type = "forgather_llama"
    native_model_type: ClassVar[str] = "llama"
    native_ignores: ClassVar[tuple[str, ...]] = ("sliding_window",)
    also_reads: ClassVar[tuple[str, ...]] = ("mistral",)
    built_in: ClassVar[dict[str, Any]] = {"hidden_act": "silu", "attention_bias": False, "mlp_bias": False}
    base_model_tp_plan: ClassVar[dict[str, str]] = HEADS | GATED_FEED_FORWARD


# Last, because it needs the class above: whoever loads the configuration can build the model from it.
from . import modeling_llama  # noqa: E402, F401
