"""The configuration of newmodel: its options, as a transformers configuration."""

from typing import TYPE_CHECKING, ClassVar

from forgather_core.parts.decoder_config import DecoderConfig
from forgather_core.parts.parallel_plans import GATED_FEED_FORWARD, HEADS

from .options import NewModelOptions

if TYPE_CHECKING:  # transformers copies the files that are imported here
    from .modeling_newmodel import NewModelForCausalLM  # noqa: F401


class NewModelConfig(NewModelOptions, DecoderConfig):
    """Configuration of newmodel.

    The fields are those of `NewModelOptions` and of transformers' `PreTrainedConfig`.
    """

    model_type = "forgather_newmodel"  # with a prefix, to differ from every model type of transformers
    base_model_tp_plan: ClassVar[dict[str, str]] = HEADS | GATED_FEED_FORWARD


# At the end, because the model needs the class above. Loading the configuration then also registers the model.
from . import modeling_newmodel  # noqa: E402, F401
