"""Entry point: the qwen3 definition. Does not import torch."""

from collections.abc import Iterator
from importlib.resources import files

from forgather_core import ModelDefinition, hookimpl

from .options import Qwen3Options


@hookimpl
def forgather_models() -> Iterator[ModelDefinition]:
    """Yield the qwen3 definition."""
    yield ModelDefinition(
        name="qwen3",
        summary="Qwen3: Llama with RMSNorm on the query and key of each head",
        options=Qwen3Options,
        config="forgather_qwen3.configuration_qwen3:Qwen3Config",
        model="forgather_qwen3.modeling_qwen3:Qwen3ForCausalLM",
        presets=files("forgather_qwen3") / "presets",
        default_preset="4M",
        native="Qwen3ForCausalLM",
        reference="forgather_qwen3.reference:REFERENCE",
    )
