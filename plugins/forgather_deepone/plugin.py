"""Entry point: the deepone definition. Does not import torch."""

from collections.abc import Iterator
from importlib.resources import files

from forgather_core import ModelDefinition, hookimpl

from .options import DeeponeOptions


@hookimpl
def forgather_models() -> Iterator[ModelDefinition]:
    """Yield the deepone definition."""
    yield ModelDefinition(
        name="deepone",
        summary="DeepNet with ALiBi: post-norm residuals that stay stable at any depth, ReGLU",
        options=DeeponeOptions,
        config="forgather_deepone.configuration_deepone:DeeponeConfig",
        model="forgather_deepone.modeling_deepone:DeeponeForCausalLM",
        presets=files("forgather_deepone") / "presets",
        default_preset="4M",
        reference="forgather_deepone.reference:REFERENCE",
    )
