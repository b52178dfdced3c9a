"""What `forgather` finds: the older_lm definition, named without importing torch."""

from collections.abc import Iterator
from importlib.resources import files

from forgather_core import ModelDefinition, hookimpl

from .options import OlderLmOptions


@hookimpl
def forgather_models() -> Iterator[ModelDefinition]:
    """One definition; a package may yield several."""
    yield ModelDefinition(
        name="older_lm",
        summary="Pre-norm decoder: RoPE, grouped-query attention, gated feed-forward, scaled residuals",
        options=OlderLmOptions,
        config="forgather_older_lm.configuration_older_lm:OlderLmConfig",
        model="forgather_older_lm.modeling_older_lm:OlderLmForCausalLM",
        presets=files("forgather_older_lm") / "presets",
        default_preset="4M",
        reference="forgather_older_lm.reference:REFERENCE",
    )
