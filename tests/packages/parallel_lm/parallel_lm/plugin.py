"""The plugin module that Forgather loads."""

from collections.abc import Iterator
from importlib.resources import files

from forgather_core import ModelDefinition, hookimpl

from .options import ParallelOptions


@hookimpl
def forgather_models() -> Iterator[ModelDefinition]:
    """One definition."""
    yield ModelDefinition(
        name="parallel",
        summary="Attention and feed-forward side by side",
        options=ParallelOptions,
        config="parallel_lm.configuration_parallel:ParallelConfig",
        model="parallel_lm.modeling_parallel:ParallelForCausalLM",
        presets=files("parallel_lm") / "presets",
        default_preset="small",
    )
