"""Refuse a training step that does not fit into memory, before the model is built."""

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
from ..settings.resolve import Settings

_COPIES = 4  # of the weights: they, their gradients, and what AdamW keeps
_BYTES = 8  # of a number, at most


def step_guard(settings: Settings, options: TestOptions) -> Callable[[Any, Callable[[], nn.Module], Path], None]:
    """Return what refuses the step, to be called with a configuration, what makes its model on meta, and the directory.

    Raises (when it is called):
        BuildError: There is less memory than the step needs.
    """
    rows, length = options.batch_size, options.sequence_length

    def guard(config: Any, on_meta: Callable[[], nn.Module], directory: Path) -> None:
        content = config.to_dict()
        activations = _BYTES * most_activations(content, rows, length)

        def traced() -> int:
            try:
                memory, _ = memory_of_options(settings, options, directory)
                return memory.training(rows, length).peak.bytes
            except ForgatherError:
                raise
            except Exception:
                return 0  # what cannot be traced is tried

        needs = (
            lambda: _COPIES * _BYTES * most_parameters(content) + activations,
            lambda: _COPIES * parameter_table(on_meta()).bytes + activations,
            traced,
        )
        refuse_too_large(f"a training step of {rows:,} x {length:,} tokens", settings.build.device, needs)

    return guard
