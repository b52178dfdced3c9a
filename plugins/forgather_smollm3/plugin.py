"""Entry point: the smollm3 definition. Does not import torch."""

from collections.abc import Iterator
from importlib.resources import files

from forgather_core import ModelDefinition, hookimpl

from .options import SmolLM3Options


@hookimpl
def forgather_models() -> Iterator[ModelDefinition]:
    """Yield the smollm3 definition."""
    yield ModelDefinition(
        name="smollm3",
        summary="SmolLM3: Llama with RoPE in three of four layers",
        options=SmolLM3Options,
        config="forgather_smollm3.configuration_smollm3:SmolLM3Config",
        model="forgather_smollm3.modeling_smollm3:SmolLM3ForCausalLM",
        presets=files("forgather_smollm3") / "presets",
        default_preset="4M",
        native="SmolLM3ForCausalLM",
        reference="forgather_smollm3.reference:REFERENCE",
    )
