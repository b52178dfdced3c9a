"""Check that a model can be trained with its build options, before it is built."""

from __future__ import annotations

from ..errors import BuildError
from ..settings.resolved_model import ResolvedModel


def check_trainable(resolved: ResolvedModel, *, has_checkpoint: bool = False) -> None:
    """Check that the weights have values, and that the attention implementation has a backward pass.

    Args:
        resolved: The resolved model, with the device that it trains on. On meta, weights have no values.
        has_checkpoint: Whether the weights will be loaded from the checkpoint of a run.

    Raises:
        BuildError: The weights would be uninitialized, or the attention implementation cannot be trained.
    """
    build = resolved.build
    has_checkpoint = has_checkpoint or build.load_from_checkpoint is not None
    if build.no_init_weights and not has_checkpoint and build.device != "meta":
        problem = "requires --load-from-checkpoint, since uninitialized weights cannot be trained"
        raise BuildError(problem, option="--no-init-weights", hint="add it, or remove --no-init-weights")
    if build.attn_implementation == "flex_attention" and build.device.startswith("cpu"):
        problem = "flex_attention has no backward pass on the CPU"
        raise BuildError(problem, option="--attn-implementation", hint="use sdpa or eager")
    dropout = getattr(resolved.options, "attention_dropout", 0.0)
    if build.attn_implementation == "flex_attention" and dropout > 0:
        problem = f"flex_attention does not support dropout, and attention_dropout is {dropout}"
        hint = "use sdpa or eager, or set attention_dropout to 0"
        raise BuildError(problem, option="--attn-implementation", hint=hint)
