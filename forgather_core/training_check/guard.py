"""Check that a training step fits into memory, before the model is built."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import nn

from ..errors import ForgatherError
from ..estimate import memory_of_options
from ..model.parameters import parameter_table
from ..options.command_options import TestOptions
from ..runtime.memory_guard import most_activations, most_parameters, refuse_too_large
from ..settings.resolved_model import ResolvedModel

_COPIES = 4  # weights, gradients, and the two moments of AdamW
_BYTES = 8  # per element, at most


def step_guard(resolved: ResolvedModel, options: TestOptions) -> Callable[[Any, Callable[[], nn.Module], Path], None]:
    """Return a guard that raises if the training step does not fit into memory.

    Args:
        resolved: The resolved model.
        options: Batch and sequence length of the step.

    Returns:
        A function `guard(config, on_meta, directory)` of a transformers configuration, a function that builds its model
        on meta, and the model directory. It raises BuildError if the step needs more memory than is available.
    """
    rows, length = options.batch_size, options.sequence_length

    def guard(config: Any, on_meta: Callable[[], nn.Module], directory: Path) -> None:
        content = config.to_dict()
        activations = _BYTES * most_activations(content, rows, length)

        def traced_bytes() -> int:
            try:
                memory, _ = memory_of_options(resolved, options, directory)
                return memory.training(rows, length).peak.bytes
            except ForgatherError:
                raise
            except Exception:
                return 0  # a step that cannot be traced is run without this check

        needs = (
            lambda: _COPIES * _BYTES * most_parameters(content) + activations,
            lambda: _COPIES * parameter_table(on_meta()).bytes + activations,
            traced_bytes,
        )
        refuse_too_large(f"a training step of {rows:,} x {length:,} tokens", resolved.build.device, needs)

    return guard
