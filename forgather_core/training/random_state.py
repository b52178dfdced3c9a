"""Save and restore torch's random number generators."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class RandomState:
    """State of torch's CPU generator and of a device's default generator, so that dropout can be repeated.

    Args:
        device: The device whose default generator is included.
        cpu: State of the CPU generator.
        other: State of the device's generator; None if the device is the CPU.
    """

    device: torch.device
    cpu: Tensor
    other: Tensor | None

    @classmethod
    def take(cls, device: torch.device) -> RandomState:
        """Return the current state."""
        other = None
        if device.type == "cuda":
            other = torch.cuda.get_rng_state(device)
        elif device.type == "mps":
            other = torch.mps.get_rng_state()
        return cls(device, torch.get_rng_state(), other)

    def restore(self) -> None:
        """Set the generators to this state; may be called any number of times."""
        torch.set_rng_state(self.cpu)
        if self.other is None:
            return
        if self.device.type == "cuda":
            torch.cuda.set_rng_state(self.other, self.device)
        else:
            torch.mps.set_rng_state(self.other)


@contextmanager
def kept_random_state() -> Iterator[None]:
    """Restore torch's generators, on the CPU and on accelerators in use, after a block that may seed them."""
    cpu = torch.get_rng_state()
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else None  # type: ignore[no-untyped-call]
    mps = torch.mps.get_rng_state() if torch.backends.mps.is_available() else None
    try:
        yield
    finally:
        torch.set_rng_state(cpu)
        if cuda is not None:
            torch.cuda.set_rng_state_all(cuda)
        if mps is not None:
            torch.mps.set_rng_state(mps)
