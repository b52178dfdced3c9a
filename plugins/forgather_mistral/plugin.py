"""Entry point: the mistral definition. Does not import torch."""

from collections.abc import Iterator
from importlib.resources import files

from forgather_core import ModelDefinition, hookimpl

from .options import MistralOptions


@hookimpl
def forgather_models() -> Iterator[ModelDefinition]:
    """Yield the mistral definition."""
    yield ModelDefinition(
        name="mistral",
        summary="Mistral: Llama with a sliding window",
        options=MistralOptions,
        config="forgather_mistral.configuration_mistral:MistralConfig",
        model="forgather_mistral.modeling_mistral:MistralForCausalLM",
        presets=files("forgather_mistral") / "presets",
        default_preset="4M",
        native="MistralForCausalLM",
        reference="forgather_mistral.reference:REFERENCE",
    )
