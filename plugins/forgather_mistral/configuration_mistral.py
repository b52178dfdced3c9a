"""The configuration of mistral: its options, and what transformers adds."""

from typing import TYPE_CHECKING, Any, ClassVar

from forgather_core.parts.decoder_config import DecoderConfig
from forgather_core.parts.parallel_plans import GATED_FEED_FORWARD, HEADS

from .options import MistralOptions

if TYPE_CHECKING:  # this line makes transformers copy the file beside this one
    from .modeling_mistral import MistralForCausalLM  # noqa: F401


class MistralConfig(MistralOptions, DecoderConfig):
    """Names are those of transformers' MistralConfig, and a config.json of it can be given as keywords."""

    model_type = "forgather_mistral"
    native_model_type: ClassVar[str] = "mistral"
    built_in: ClassVar[dict[str, Any]] = {"hidden_act": "silu"}
    base_model_tp_plan: ClassVar[dict[str, str]] = HEADS | GATED_FEED_FORWARD


# Last, because it needs the class above: whoever loads the configuration can build the model from it.
from . import modeling_mistral  # noqa: E402, F401
