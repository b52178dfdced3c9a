"""Outputs of models whose layers return values."""

from dataclasses import dataclass

from torch import Tensor
from transformers.modeling_outputs import BaseModelOutputWithPast, CausalLMOutputWithPast


@dataclass
class DecoderOutput(BaseModelOutputWithPast):
    """Output of a decoder.

    Args:
        layer_values: The values that layers returned, by name, one for each layer that returned it.
    """

    layer_values: dict[str, tuple[Tensor, ...]] | None = None


@dataclass
class LanguageModelOutput(CausalLMOutputWithPast):
    """Output of a language model. Names that transformers has for a value are those of its mixture models.

    Args:
        aux_loss: The auxiliary loss before its weight, a scalar.
        router_logits: The logits of each router, as its layer returned them.
        layer_values: All values that layers returned, by name, one for each layer that returned it.
    """

    aux_loss: Tensor | None = None
    router_logits: tuple[Tensor, ...] | None = None
    layer_values: dict[str, tuple[Tensor, ...]] | None = None
