"""Entry point: the single_head definition. Does not import torch."""

from collections.abc import Iterator
from importlib.resources import files

from forgather_core import ModelDefinition, hookimpl

from .options import SingleHeadOptions


@hookimpl
def forgather_models() -> Iterator[ModelDefinition]:
    """Yield the single_head definition."""
    yield ModelDefinition(
        name="single_head",
        summary="One full-width attention head per layer; ALiBi; for analysis",
        options=SingleHeadOptions,
        config="forgather_single_head.configuration_single_head:SingleHeadConfig",
        model="forgather_single_head.modeling_single_head:SingleHeadForCausalLM",
        presets=files("forgather_single_head") / "presets",
        default_preset="4M",
        reference="forgather_single_head.reference:REFERENCE",
    )
