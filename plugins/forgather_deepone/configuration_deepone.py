"""The configuration of deepone: its options, and what transformers adds."""

from typing import TYPE_CHECKING, Any, ClassVar

from forgather_core.parts.decoder_config import DecoderConfig
from forgather_core.parts.parallel_plans import ALIBI, GATED_FEED_FORWARD, HEADS

from .options import DeeponeOptions

if TYPE_CHECKING:  # this line makes transformers copy the file beside this one
    from .modeling_deepone import DeeponeForCausalLM  # noqa: F401


class DeeponeConfig(DeeponeOptions, DecoderConfig):
    """Slopes are split as the heads are."""

    model_type = "forgather_deepone"
    built_in: ClassVar[dict[str, Any]] = {"hidden_act": "relu"}
    base_model_tp_plan: ClassVar[dict[str, str]] = HEADS | ALIBI | GATED_FEED_FORWARD


# Last, because it needs the class above: whoever loads the configuration can build the model from it.
from . import modeling_deepone  # noqa: E402, F401
