"""Configuration class of single_head: its options and the fields of transformers."""

from typing import TYPE_CHECKING, Any, ClassVar

from forgather_core.parts.decoder_config import DecoderConfig
from forgather_core.parts.parallel_plans import GATED_FEED_FORWARD

from .options import SingleHeadOptions

if TYPE_CHECKING:  # makes transformers copy this file
    from .modeling_single_head import SingleHeadForCausalLM  # noqa: F401


class SingleHeadConfig(SingleHeadOptions, DecoderConfig):
    """Configuration of single_head; tensor parallelism replicates attention and splits the feed-forward channels."""

    model_type = "forgather_single_head"
    built_in: ClassVar[dict[str, Any]] = {"hidden_act": "relu", "num_attention_heads": 1, "num_key_value_heads": 1}
    base_model_tp_plan: ClassVar[dict[str, str]] = GATED_FEED_FORWARD

    num_attention_heads: ClassVar[int] = 1  # read by caches and servers
    num_key_value_heads: ClassVar[int] = 1

    def to_dict(self) -> dict[str, Any]:
        """Return the configuration as plain data, including the number of heads, which other tools read."""
        return super().to_dict() | {"num_attention_heads": 1, "num_key_value_heads": 1}

    @property
    def head_dim(self) -> int:
        """The head dimension, which equals the hidden size."""
        return self.hidden_size


# Last, since it requires the class above: loading the configuration registers its model.
from . import modeling_single_head  # noqa: E402, F401
