"""Configuration class of qwen3: its options and the fields of transformers."""

from typing import TYPE_CHECKING, Any, ClassVar

from forgather_core.parts.decoder_config import DecoderConfig
from forgather_core.parts.parallel_plans import GATED_FEED_FORWARD, HEAD_NORMS, HEADS

from .options import Qwen3Options

if TYPE_CHECKING:  # makes transformers copy this file
    from .modeling_qwen3 import Qwen3ForCausalLM  # noqa: F401


class Qwen3Config(Qwen3Options, DecoderConfig):
    """Configuration with the names of transformers' Qwen3Config; accepts its config.json as keywords."""

    model_type = "forgather_qwen3"
    native_model_type: ClassVar[str] = "qwen3"
    native_defaults: ClassVar[dict[str, Any]] = {"use_sliding_window": False}
    built_in: ClassVar[dict[str, Any]] = {"hidden_act": "silu", "attention_bias": False}
    base_model_tp_plan: ClassVar[dict[str, str]] = HEADS | HEAD_NORMS | GATED_FEED_FORWARD

    use_sliding_window: bool | None = None  # transformers' switch for the sliding window
    layer_types: list[str] | None = None  # type of each layer, read by transformers' caches

    def __post_init__(self, **kwargs: Any) -> None:
        if self.use_sliding_window is False:
            self.sliding_window = None
        self.use_sliding_window = self.sliding_window is not None
        layer_types = ["sliding_attention" if window else "full_attention" for window in self.windows()]
        if self.layer_types not in (None, layer_types):
            raise ValueError(
                f"layer_types must be {layer_types} for this sliding_window and max_window_layers; "
                f"got {self.layer_types}: remove layer_types, or correct max_window_layers"
            )
        self.layer_types = layer_types
        super().__post_init__(**kwargs)

    def windows(self) -> list[int | None]:
        """Return the sliding window of each layer; None means full attention."""
        layers = range(self.num_hidden_layers)
        return [self.sliding_window if i >= self.max_window_layers else None for i in layers]


# Last, since it requires the class above: loading the configuration registers its model.
from . import modeling_qwen3  # noqa: E402, F401
