"""Check that a training step fits into memory, before the model is built."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import nn

from ..errors import ForgatherError
from ..estimate import least_memory, memory_of_options
from ..model.parameters import parameter_table
from ..options.command_options import TestOptions
from ..parallel.memory_share import MemoryShare
from ..parallel.mesh import Mesh
from ..runtime.memory_guard import most_activations, most_parameters, refuse_too_large
from ..settings.resolved_model import ResolvedModel

_COPIES = 4  # weights, gradients, and the two moments of AdamW
_BYTES = 8  # per element, at most


Guard = Callable[[Any, Callable[[], nn.Module], Path, Mesh | None], None]


def step_guard(resolved: ResolvedModel, options: TestOptions) -> Guard:
    """Return a guard that raises if the training step does not fit into memory.

    Args:
        resolved: The resolved model.
        options: Batch and sequence length of the step.

    Returns:
        A function `guard(config, on_meta, directory, mesh)` of a transformers configuration, a function that builds its
        model on meta, the model directory, and the mesh over which the model is distributed, if it is. It raises
        BuildError if the step needs more memory than is available.
    """
    rows, length = options.batch_size, options.sequence_length

    def guard(config: Any, on_meta: Callable[[], nn.Module], directory: Path, mesh: Mesh | None) -> None:
        content = config.to_dict()
        share = mesh.memory_share if mesh is not None else MemoryShare()
        activations = _BYTES * most_activations(content, rows, length) * max(1.0, share.activations)

        def traced_bytes() -> int:
            try:
                memory, _ = memory_of_options(resolved, options, directory)
                return least_memory(memory.training(rows, length).peak, share)
            except ForgatherError:
                raise
            except Exception:
                return 0  # a step that cannot be traced is run without this check

        needs = (
            lambda: int(_COPIES * _BYTES * most_parameters(content) * share.weights + activations),
            lambda: int(_COPIES * parameter_table(on_meta()).bytes * share.weights + activations),
            traced_bytes,
        )
        refuse_too_large(f"a training step of {rows:,} x {length:,} tokens", resolved.build.device, needs)

    return guard
