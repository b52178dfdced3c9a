"""The fractions of a training step in one memory: that of a GPU, or that of a machine, which its processes share."""

from __future__ import annotations

from dataclasses import dataclass

from ..options.parallel import ParallelSizes


@dataclass(frozen=True)
class MemoryShare:
    """The fractions of the memory of a whole step on one device, at least.

    Args:
        weights: The fraction of weights, gradients and optimizer state.
        activations: The fraction of everything else.
    """

    weights: float = 1.0
    activations: float = 1.0

    @classmethod
    def of(cls, sizes: ParallelSizes, device_type: str, local_processes: int) -> MemoryShare:
        """Return the fractions of a mesh.

        Args:
            sizes: The sizes of the mesh.
            device_type: The type of its devices; the processes of a machine share the memory of `cpu`.
            local_processes: The number of processes on this machine.
        """
        together = local_processes if device_type == "cpu" else 1
        return cls(together / (sizes.fsdp * sizes.tp), together / sizes.tp)
