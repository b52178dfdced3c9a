"""Parameters, memory and compute of a model before it is built: a step is run on tensors that have no memory."""

from .compare import compare
from .devices import known_device
from .memory import Memory
from .run import estimate, memory_of, memory_of_options, memory_of_step, step_options
from .timeline import Batches, Peak, Timeline

__all__ = [
    "Batches",
    "Memory",
    "Peak",
    "Timeline",
    "compare",
    "estimate",
    "known_device",
    "memory_of",
    "memory_of_options",
    "memory_of_step",
    "step_options",
]
