"""Estimate parameters, memory and FLOPs of a model before it is built, by running a step on fake tensors."""

from .compare import compare
from .devices import known_device
from .distributed import least_memory
from .memory import Memory
from .run import estimate, memory_of, memory_of_options, memory_of_step, step_options
from .timeline import BatchExtrapolation, Peak, Timeline

__all__ = [
    "BatchExtrapolation",
    "Memory",
    "Peak",
    "Timeline",
    "compare",
    "estimate",
    "known_device",
    "least_memory",
    "memory_of",
    "memory_of_options",
    "memory_of_step",
    "step_options",
]
