"""Configuration."""

from typing import TYPE_CHECKING

from transformers import PreTrainedConfig

from .options import ParallelOptions

if TYPE_CHECKING:
    from .modeling_parallel import ParallelForCausalLM  # noqa: F401


class ParallelConfig(ParallelOptions, PreTrainedConfig):
    """Options and what transformers adds."""

    model_type = "parallel_lm"
    vocab_size: int = 100
    bos_token_id: int | None = None
    eos_token_id: int | None = None
    pad_token_id: int | None = None
    use_cache: bool = True

    __repr__ = PreTrainedConfig.__repr__


from . import modeling_parallel  # noqa: E402, F401
