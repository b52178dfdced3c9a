"""The configuration of single_head: its options, and what transformers adds."""

from typing import TYPE_CHECKING, Any, ClassVar

from forgather_core.parts.decoder_config import DecoderConfig
from forgather_core.parts.parallel_plans import GATED_FEED_FORWARD

from .options import SingleHeadOptions

if TYPE_CHECKING:  # this line makes transformers copy the file beside this one
    from .modeling_single_head import SingleHeadForCausalLM  # noqa: F401


class SingleHeadConfig(SingleHeadOptions, DecoderConfig):
    """One head cannot be split: every device has all of attention, and some of the feed-forward channels."""

    model_type = "forgather_single_head"
    built_in: ClassVar[dict[str, Any]] = {"hidden_act": "relu", "num_attention_heads": 1, "num_key_value_heads": 1}
    base_model_tp_plan: ClassVar[dict[str, str]] = GATED_FEED_FORWARD

    num_attention_heads: ClassVar[int] = 1  # asked for by caches and servers
    num_key_value_heads: ClassVar[int] = 1

    def to_dict(self) -> dict[str, Any]:
        """As plain data; tools read the number of heads in config.json."""
        return super().to_dict() | {"num_attention_heads": 1, "num_key_value_heads": 1}

    @property
    def head_dim(self) -> int:
        """The head is as wide as the model."""
        return self.hidden_size


# Last, because it needs the class above: whoever loads the configuration can build the model from it.
from . import modeling_single_head  # noqa: E402, F401
