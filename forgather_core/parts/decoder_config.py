"""The configuration of a decoder: its options, and what transformers adds."""

from typing import Any, ClassVar

from transformers import PreTrainedConfig

from forgather_core.parts.parallel_plans import STAGES

# What a decoder can be told in Hugging Face's vocabulary: one that does not have it must not take it and do nothing.
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
ORIGINAL_LENGTH = "original_max_position_embeddings"  # may be beside rope_parameters, as Phi-3 has it, and then wins
OLD_ROPE = frozenset({"rope_scaling", "rope_theta"})  # how older files say rope_parameters


class DecoderConfig(PreTrainedConfig):
    """What every decoder's configuration does with its options; `class XConfig(XOptions, DecoderConfig)`.

    A definition whose mathematics one of transformers' classes has names that class's model type as
    `native_model_type`; its config.json can then be given as keywords, and the configuration can be written as one.

    Raises:
        ValueError: Options that contradict each other, or something of another architecture, which this model has not.
    """

    keys_to_ignore_at_inference: ClassVar[list[str]] = ["past_key_values", "cache"]
    base_model_pp_plan: ClassVar[dict[str, Any]] = STAGES
    native_model_type: ClassVar[str | None] = None
    also_reads: ClassVar[tuple[str, ...]] = ()  # further model types whose config.json this one understands
    built_in: ClassVar[dict[str, Any]] = {}  # values of the native class's configuration that are not options here

    native_ignores: ClassVar[tuple[str, ...]] = ()  # options here that the native class does not have
    native_defaults: ClassVar[dict[str, Any]] = {}  # of the native class, where a file that leaves them out needs them

    vocab_size: int | None = None
    max_position_embeddings: int | None = None
    bos_token_id: int | None = None
    eos_token_id: int | list[int] | None = None
    pad_token_id: int | None = None
    use_cache: bool = True
    skip_logits: bool = False  # in training: a loss without logits, for trainers that do not look at them
    native: bool = False  # written with native_model_type, so that transformers' own class loads it too

    __repr__ = PreTrainedConfig.__repr__  # JSON, not the options' dataclass form

    def __post_init__(self, **kwargs: Any) -> None:
        for name, value in self.built_in.items():
            if kwargs.get(name, value) != value:
                raise ValueError(f"{name}: this model has {value!r} built in, and not {kwargs[name]!r}")
        rotary = OLD_ROPE if hasattr(self, "rope_parameters") else frozenset()  # folded in by transformers
        for name in sorted(set(ARCHITECTURE) & kwargs.keys() - self.built_in.keys() - rotary):
            if (value := kwargs.pop(name)) is not None:
                raise ValueError(f"{name}: this model has none, and it is {value!r}")
        self.vocab_size = self.vocab_size or 32000
        self.max_position_embeddings = self.max_position_embeddings or 2048
        original_length = None
        if (rope := getattr(self, "rope_parameters", None)) is not None:
            original_length = kwargs.pop(ORIGINAL_LENGTH, None)
            # transformers fills in what is not there: a default must not stand in the way of what an old file says.
            left_alone = rope == type(self).__dataclass_fields__["rope_parameters"].default_factory()
            # A copy: it is about to be completed, and may be the caller's.
            self.rope_parameters = {} if left_alone and kwargs.keys() & rotary else dict(rope)
        super().__post_init__(**kwargs)
        if (rope := getattr(self, "rope_parameters", None)) is not None:
            rope.pop("type", None)  # what rope_type was called once; transformers keeps both
            if original_length is not None and ORIGINAL_LENGTH in rope:  # transformers has set it for types that use it
                rope[ORIGINAL_LENGTH] = original_length
        for name, sentence in getattr(self, "problems", tuple)():
            raise ValueError(f"{name}: {sentence}")
        for name, value in getattr(self, "derived", dict)().items():
            setattr(self, name, value)

    @classmethod
    def get_config_dict(cls, *args: Any, **kwargs: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        """The content of a config.json; one that is written for the native class says so by its model type."""
        content, rest = super().get_config_dict(*args, **kwargs)
        if cls.native_model_type is not None and content.get("model_type") == cls.native_model_type:
            read = {name: value for name, value in content.items() if name not in cls.native_ignores}
            content = cls.native_defaults | read | {"model_type": cls.model_type, "native": True}
        return content, rest

    def to_dict(self) -> dict[str, Any]:
        """As plain data, in the native class's form where it is written for that one too."""
        content = super().to_dict()
        if content.pop("native", False):
            content["model_type"] = self.native_model_type
        return content
