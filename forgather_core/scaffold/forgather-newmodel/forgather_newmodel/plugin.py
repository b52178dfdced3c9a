"""The plugin: registers the newmodel definition. Must not import torch, so that `--help` stays fast."""

from collections.abc import Iterator
from importlib.resources import files

from forgather_core import ModelDefinition, hookimpl

from .options import NewModelOptions


@hookimpl
def forgather_models() -> Iterator[ModelDefinition]:
    """Yield the definitions of this package."""
    yield ModelDefinition(
        name="newmodel",
        summary="Pre-norm decoder: RoPE, grouped-query attention, gated feed-forward, scaled residuals",
        options=NewModelOptions,
        config="forgather_newmodel.configuration_newmodel:NewModelConfig",
        model="forgather_newmodel.modeling_newmodel:NewModelForCausalLM",
        presets=files("forgather_newmodel") / "presets",
        default_preset="4M",
        reference="forgather_newmodel.reference:REFERENCE",
    )
