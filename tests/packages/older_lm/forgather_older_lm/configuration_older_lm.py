"""The configuration of older_lm: its options, and what transformers adds."""

from typing import TYPE_CHECKING, ClassVar

from forgather_core.parts.decoder_config import DecoderConfig
from forgather_core.parts.parallel_plans import GATED_FEED_FORWARD, HEADS

from .options import OlderLmOptions

if TYPE_CHECKING:  # this line makes transformers copy the file beside this one
    from .modeling_older_lm import OlderLmForCausalLM  # noqa: F401


class OlderLmConfig(OlderLmOptions, DecoderConfig):
    """The model type has a prefix, so that it is none of transformers' own."""

    model_type = "forgather_older_lm"
    base_model_tp_plan: ClassVar[dict[str, str]] = HEADS | GATED_FEED_FORWARD


# Last, because it needs the class above: whoever loads the configuration can build the model from it.
from . import modeling_older_lm  # noqa: E402, F401
