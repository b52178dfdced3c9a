"""The configuration of llama: its options, and what transformers adds."""

from typing import TYPE_CHECKING, Any, ClassVar

from transformers import PreTrainedConfig

from .options import LlamaOptions

if TYPE_CHECKING:  # this line makes transformers copy the file beside this one
    from .modeling_llama import LlamaForCausalLM  # noqa: F401


class LlamaConfig(LlamaOptions, PreTrainedConfig):
    """Names are those of transformers' LlamaConfig, and a config.json of it can be given as keywords.

    Raises:
        ValueError: Options that contradict each other, or something of transformers' Llama that this one has not.
    """

    model_type = "forgather_llama"
    keys_to_ignore_at_inference: ClassVar[list[str]] = ["past_key_values", "cache"]
    base_model_tp_plan: ClassVar[dict[str, str]] = {
        "layers.*.self_attn.q_proj": "colwise",
        "layers.*.self_attn.k_proj": "colwise",
        "layers.*.self_attn.v_proj": "colwise",
        "layers.*.self_attn.o_proj": "rowwise",
        "layers.*.mlp.gate_proj": "colwise",
        "layers.*.mlp.up_proj": "colwise",
        "layers.*.mlp.down_proj": "rowwise",
    }
    base_model_pp_plan: ClassVar[dict[str, Any]] = {
        "embed_tokens": (["input_ids"], ["inputs_embeds"]),
        "layers": (["hidden_states", "attention_mask"], ["hidden_states"]),
        "norm": (["hidden_states"], ["hidden_states"]),
    }
    built_in: ClassVar[dict[str, Any]] = {"hidden_act": "silu", "attention_bias": False, "mlp_bias": False}

    vocab_size: int | None = 32000
    max_position_embeddings: int | None = 2048
    rope_parameters: dict[str, Any] | None = None  # transformers folds rope_theta and rope_scaling of older files in
    bos_token_id: int | None = None
    eos_token_id: int | list[int] | None = None
    pad_token_id: int | None = None
    use_cache: bool = True

    __repr__ = PreTrainedConfig.__repr__  # JSON, not the options' dataclass form

    def __post_init__(self, **kwargs: Any) -> None:
        for name, value in self.built_in.items():
            if kwargs.get(name, value) != value:
                raise ValueError(f"{name}: this model has {value!r} built in, and not {kwargs[name]!r}")
        self.vocab_size = self.vocab_size or 32000
        self.max_position_embeddings = self.max_position_embeddings or 2048
        self.rope_parameters = dict(self.rope_parameters or {})  # not the caller's: it is about to be completed
        super().__post_init__(**kwargs)
        self.rope_parameters.pop("type", None)  # what rope_type was called once; transformers keeps both
        for name, sentence in self.problems():
            raise ValueError(f"{name}: {sentence}")
        for name, value in self.derived().items():
            setattr(self, name, value)


# Last, because it needs the class above: whoever loads the configuration can build the model from it.
from . import modeling_llama  # noqa: E402, F401
