"""Configuration class of llama: its options and the fields of transformers."""

from typing import TYPE_CHECKING, Any, ClassVar

from forgather_core.parts.decoder_config import DecoderConfig
from forgather_core.parts.parallel_plans import GATED_FEED_FORWARD, HEADS

from .options import LlamaOptions

if TYPE_CHECKING:  # makes transformers copy this file
    from .modeling_llama import LlamaForCausalLM  # noqa: F401


class LlamaConfig(LlamaOptions, DecoderConfig):
    """Configuration with the names of transformers' LlamaConfig; accepts its config.json as keywords."""

    model_type = "forgather_llama"
    native_model_type: ClassVar[str] = "llama"
    native_ignores: ClassVar[tuple[str, ...]] = ("sliding_window",)
    also_reads: ClassVar[tuple[str, ...]] = ("mistral",)
    built_in: ClassVar[dict[str, Any]] = {"hidden_act": "silu", "attention_bias": False, "mlp_bias": False}
    base_model_tp_plan: ClassVar[dict[str, str]] = HEADS | GATED_FEED_FORWARD


# Last, since it requires the class above: loading the configuration registers its model.
from . import modeling_llama  # noqa: E402, F401
