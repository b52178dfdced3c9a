"""Entry point: the causal_lm definition. Does not import torch."""

from collections.abc import Iterator
from importlib.resources import files

from forgather_core import ModelDefinition, hookimpl

from .options import TransformerOptions


@hookimpl
def forgather_models() -> Iterator[ModelDefinition]:
    """Yield the causal_lm definition."""
    yield ModelDefinition(
        name="causal_lm",
        summary="The original transformer: post-LayerNorm, sinusoidal positions, ReLU",
        options=TransformerOptions,
        config="forgather_causal_lm.configuration_causal_lm:TransformerConfig",
        model="forgather_causal_lm.modeling_causal_lm:TransformerForCausalLM",
        presets=files("forgather_causal_lm") / "presets",
        default_preset="4M",
        reference="forgather_causal_lm.reference:REFERENCE",
    )
