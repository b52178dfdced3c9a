"""Entry point: the llama definition. Does not import torch."""

from collections.abc import Iterator
from importlib.resources import files

from forgather_core import ModelDefinition, hookimpl

from .options import LlamaOptions


@hookimpl
def forgather_models() -> Iterator[ModelDefinition]:
    """Yield the llama definition."""
    yield ModelDefinition(
        name="llama",
        summary="Llama: RMSNorm, RoPE, grouped-query attention, SwiGLU",
        options=LlamaOptions,
        config="forgather_llama.configuration_llama:LlamaConfig",
        model="forgather_llama.modeling_llama:LlamaForCausalLM",
        presets=files("forgather_llama") / "presets",
        default_preset="4M",
        native="LlamaForCausalLM",
        reference="forgather_llama.reference:REFERENCE",
    )
