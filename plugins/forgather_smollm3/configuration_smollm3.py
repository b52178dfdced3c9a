"""Configuration class of smollm3: its options and the fields of transformers."""

from typing import TYPE_CHECKING, Any, ClassVar

from forgather_core.parts.decoder_config import DecoderConfig
from forgather_core.parts.parallel_plans import GATED_FEED_FORWARD, HEADS

from .options import SmolLM3Options

if TYPE_CHECKING:  # makes transformers copy this file
    from .modeling_smollm3 import SmolLM3ForCausalLM  # noqa: F401


class SmolLM3Config(SmolLM3Options, DecoderConfig):
    """Configuration with the names of transformers' SmolLM3Config; accepts its config.json as keywords."""

    model_type = "forgather_smollm3"
    native_model_type: ClassVar[str] = "smollm3"
    native_defaults: ClassVar[dict[str, Any]] = {"use_sliding_window": False}
    built_in: ClassVar[dict[str, Any]] = {"hidden_act": "silu", "attention_bias": False, "mlp_bias": False}
    default_theta: ClassVar[float] = 2000000.0  # of a file without one, as in transformers
    base_model_tp_plan: ClassVar[dict[str, str]] = HEADS | GATED_FEED_FORWARD

    use_sliding_window: bool | None = None  # transformers' switch for the sliding window

    def __post_init__(self, **kwargs: Any) -> None:
        if self.use_sliding_window is False:
            self.sliding_window = None
        self.use_sliding_window = self.sliding_window is not None
        super().__post_init__(**kwargs)


# Last, since it requires the class above: loading the configuration registers its model.
from . import modeling_smollm3  # noqa: E402, F401
