"""Base class of all models, with and without a head: initialization, dtypes, attention implementations."""

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import nn
from transformers import PreTrainedModel

from forgather_core.parts.block import Block
from forgather_core.parts.initial_weights import Table
from forgather_core.parts.self_attention import SelfAttention
from forgather_core.parts.table_init import initialization, initialize_module, mark_filled


class Pretrained(PreTrainedModel):
    """Base class of the decoder and of the language model."""

    base_model_prefix = "model"
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _supports_attention_backend = True
    _can_compile_fullgraph = True
    _skip_keys_device_placement: ClassVar[list[str]] = ["past_key_values", "cache"]
    _can_record_outputs: ClassVar[dict[str, Any]] = {"hidden_states": Block, "attentions": SelfAttention}
    _base_seed: int | None = None  # base seed of the initialization; drawn first in a decoder's construction
    _in_post_init = False

    def __init__(self, config: Any) -> None:
        _check_attention(config, config._attn_implementation)  # before an import error for a missing package
        super().__init__(config)

    def set_attn_implementation(self, attn_implementation: Any, **kwargs: Any) -> None:
        """Change the attention implementation.

        Raises:
            ValueError: The model does not support it; the message names an alternative.
        """
        _check_attention(self.config, attn_implementation)
        super().set_attn_implementation(attn_implementation, **kwargs)

    def initial_weights(self) -> Table:
        """Yield the initialization table: (pattern, rule); the first pattern found in a parameter's name applies."""
        raise NotImplementedError

    def post_init(self) -> None:
        """Finish construction: initialize weights, tie them, set up parallel plans. Call it last in `__init__`.

        A second call fills only modules that were added since, as in transformers' own models.
        """
        self._in_post_init = True
        try:
            super().post_init()
        finally:
            self._in_post_init = False
        if torch.get_default_device().type == "meta":  # no weights yet
            return
        for module in self.modules():  # also those skipped by `no_init_weights`: a checkpoint fills them
            own = (*module._parameters.values(), *module._buffers.values())
            if not any(tensor is not None and tensor.is_meta for tensor in own):
                module._is_hf_initialized = True

    def init_weights(self) -> None:
        """Fill all weights from the table, recompute all buffers, and tie weights.

        Parameters filled by `from_pretrained`, which transformers marks, are kept. The base seed comes from torch's
        global generator: `torch.manual_seed` determines the weights, and two calls give two sets of weights.
        """
        if not self._in_post_init:
            for module in self.modules():  # transformers skips marked modules
                module._is_hf_initialized = False
        super().init_weights()

    def load_state_dict(self, state_dict: Mapping[str, Any], *args: Any, **kwargs: Any) -> Any:
        """Load weights as torch does; `post_init()` keeps them."""
        result = super().load_state_dict(state_dict, *args, **kwargs)
        mark_filled(self, state_dict)
        return result

    def resize_token_embeddings(self, *args: Any, **kwargs: Any) -> Any:
        """Resize the vocabulary as transformers does; `post_init()` keeps old and new rows."""
        embeddings = super().resize_token_embeddings(*args, **kwargs)
        for module in (self.get_input_embeddings(), self.get_output_embeddings()):
            if module is not None:
                module._is_hf_initialized = True
        return embeddings

    def initialize_weights(self) -> None:
        """Fill the parameters of all modules that are not marked as initialized."""
        seed = getattr(self.base_model, "_base_seed", None) if self._in_post_init else None
        with initialization(self, seed):
            super().initialize_weights()

    def _init_weights(self, module: nn.Module) -> None:
        initialize_module(self, module)

    @classmethod
    def _from_config(cls, config: Any, **kwargs: Any) -> Any:
        # A configuration records the dtype of the last save. A default dtype set by the caller takes precedence.
        if torch.get_default_dtype() != torch.float32 and not kwargs.keys() & {"dtype", "torch_dtype"}:
            kwargs["dtype"] = torch.get_default_dtype()
        return super()._from_config(config, **kwargs)


def _check_attention(config: Any, implementation: Any) -> None:
    # A plugin's configuration may have another base class than DecoderConfig.
    refused: dict[str, str] = getattr(config, "unsupported_attention", dict)()
    kind = "flash_attention_2" if "flash" in str(implementation) else implementation  # hub kernels have other names
    if isinstance(implementation, str) and kind in refused:
        raise ValueError(f"attn_implementation '{implementation}': {refused[kind]}")
