"""Configuration class of deepone: its options and the fields of transformers."""

from typing import TYPE_CHECKING, Any, ClassVar

from forgather_core.parts.decoder_config import DecoderConfig
from forgather_core.parts.parallel_plans import ALIBI, GATED_FEED_FORWARD, HEADS

from .options import DeeponeOptions

if TYPE_CHECKING:  # makes transformers copy this file
    from .modeling_deepone import DeeponeForCausalLM  # noqa: F401


class DeeponeConfig(DeeponeOptions, DecoderConfig):
    """Configuration of deepone; tensor parallelism splits the slopes like the heads."""

    model_type = "forgather_deepone"
    built_in: ClassVar[dict[str, Any]] = {"hidden_act": "relu"}
    base_model_tp_plan: ClassVar[dict[str, str]] = HEADS | ALIBI | GATED_FEED_FORWARD


# Last, since it requires the class above: loading the configuration registers its model.
from . import modeling_deepone  # noqa: E402, F401
