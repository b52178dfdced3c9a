"""Base class of decoder configurations."""

from collections.abc import Iterable
from typing import Any, ClassVar

from transformers import PreTrainedConfig

from forgather_core.parts.parallel_plans import STAGES

# Architecture options of Hugging Face configurations. A decoder must refuse an option that it does not support.
ARCHITECTURE = (
    "attention_bias",
    "head_dim",
    "hidden_act",
    "layer_types",
    "max_window_layers",
    "mlp_bias",
    "num_attention_heads",
    "num_key_value_heads",
    "qk_norm",
    "rope_parameters",
    "rope_scaling",
    "rope_theta",
    "sliding_window",
    "use_sliding_window",
)
ORIGINAL_LENGTH = "original_max_position_embeddings"  # Phi-3 sets it beside rope_parameters; it takes precedence
OLD_ROPE = frozenset({"rope_scaling", "rope_theta"})  # rope_parameters in older files


class DecoderConfig(PreTrainedConfig):
    """Base class of decoder configurations: `class XConfig(XOptions, DecoderConfig)`.

    If one of transformers' classes has the same mathematics, set `native_model_type` to its model type: its config.json
    is then accepted as keywords, and the configuration can be written in that form.

    Raises:
        ValueError: Options contradict each other, or an option is not supported by this architecture.
    """

    # Outputs that the evaluation of transformers' Trainer does not collect.
    keys_to_ignore_at_inference: ClassVar[list[str]] = [
        "past_key_values",
        "cache",
        "aux_loss",
        "router_logits",
        "layer_values",
    ]
    base_model_pp_plan: ClassVar[dict[str, Any]] = STAGES
    native_model_type: ClassVar[str | None] = None
    also_reads: ClassVar[tuple[str, ...]] = ()  # further model types whose config.json is accepted
    built_in: ClassVar[dict[str, Any]] = {}  # fixed values of options of the native class

    native_ignores: ClassVar[tuple[str, ...]] = ()  # options that the native class lacks
    native_defaults: ClassVar[dict[str, Any]] = {}  # different defaults of the native class

    vocab_size: int | None = None
    max_position_embeddings: int | None = None
    bos_token_id: int | None = None
    eos_token_id: int | list[int] | None = None
    pad_token_id: int | None = None
    use_cache: bool = True
    skip_logits: bool = False  # in training: chunked loss, logits are None
    native: bool = False  # save with native_model_type, for transformers' own class

    __repr__ = PreTrainedConfig.__repr__  # JSON, not the options' dataclass form

    def __post_init__(self, **kwargs: Any) -> None:
        for name, value in self.built_in.items():
            if kwargs.get(name, value) != value:
                raise ValueError(f"{name} is fixed to {value!r} for this model; got {kwargs[name]!r}")
        rotary = OLD_ROPE if hasattr(self, "rope_parameters") else frozenset()  # transformers converts them
        for name in sorted(set(ARCHITECTURE) & kwargs.keys() - self.built_in.keys() - rotary):
            if (value := kwargs.pop(name)) is not None:
                raise ValueError(f"{name} is not supported by this model; got {value!r}")
        self.vocab_size = self.vocab_size or 32000
        self.max_position_embeddings = self.max_position_embeddings or 2048
        original_length = None
        if (rope := getattr(self, "rope_parameters", None)) is not None:
            original_length = kwargs.pop(ORIGINAL_LENGTH, None)
            # transformers adds missing keys only: a default must not block the values of an old file.
            is_default = rope == type(self).__dataclass_fields__["rope_parameters"].default_factory()
            # A copy: it is modified below, and may belong to the caller.
            self.rope_parameters = {} if is_default and kwargs.keys() & rotary else dict(rope)
        super().__post_init__(**kwargs)
        if (rope := getattr(self, "rope_parameters", None)) is not None:
            rope.pop("type", None)  # former name of rope_type; transformers keeps both
            if original_length is not None and ORIGINAL_LENGTH in rope:  # set by transformers for types that use it
                rope[ORIGINAL_LENGTH] = original_length
        for name, sentence in self.problems():
            raise ValueError(f"{name}: {sentence}")
        for name, value in self.derived().items():
            setattr(self, name, value)

    def problems(self) -> Iterable[tuple[str, str]]:
        """Yield the violated constraints between options, as (option, sentence); none by default."""
        return ()

    def derived(self) -> dict[str, Any]:
        """Return derived values for options that are null, by name; none by default."""
        return {}

    def unsupported_attention(self) -> dict[str, str]:
        """Return the attention implementations that cannot compute the model: name -> reason; none by default."""
        return {}

    @classmethod
    def get_config_dict(cls, *args: Any, **kwargs: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return the content of a config.json; a native model type selects the native form."""
        content, unused = super().get_config_dict(*args, **kwargs)
        if cls.native_model_type is not None and content.get("model_type") == cls.native_model_type:
            read = {name: value for name, value in content.items() if name not in cls.native_ignores}
            content = cls.native_defaults | read | {"model_type": cls.model_type, "native": True}
        return content, unused

    def to_dict(self) -> dict[str, Any]:
        """Return plain data, in the native form if `native` is set."""
        content = super().to_dict()
        if content.pop("native", False):
            content["model_type"] = self.native_model_type
        return content
