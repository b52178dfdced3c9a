"""Configuration class of mistral: its options and the fields of transformers."""

from typing import TYPE_CHECKING, Any, ClassVar

from forgather_core.parts.decoder_config import DecoderConfig
from forgather_core.parts.parallel_plans import GATED_FEED_FORWARD, HEADS

from .options import MistralOptions

if TYPE_CHECKING:  # makes transformers copy this file
    from .modeling_mistral import MistralForCausalLM  # noqa: F401


class MistralConfig(MistralOptions, DecoderConfig):
    """Configuration with the names of transformers' MistralConfig; accepts its config.json as keywords."""

    model_type = "forgather_mistral"
    native_model_type: ClassVar[str] = "mistral"
    built_in: ClassVar[dict[str, Any]] = {"hidden_act": "silu"}
    base_model_tp_plan: ClassVar[dict[str, str]] = HEADS | GATED_FEED_FORWARD


# Last, since it requires the class above: loading the configuration registers its model.
from . import modeling_mistral  # noqa: E402, F401
