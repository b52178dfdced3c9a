"""Buffers that are computed, never stored."""

from collections.abc import Callable

import torch
from torch import Tensor, nn


class ComputedBuffers(nn.Module):
    """A module whose own buffers follow from its arguments, and are float32 whatever the dtype of the model.

    No checkpoint holds them, so that meta, `to_empty()` and a load leave anything in them: whoever makes the module
    ready calls `reset_buffers()`; a change of device or dtype does so by itself.
    """

    def reset_buffers(self) -> None:
        """Compute the buffers anew, on the device they are on."""
        raise NotImplementedError

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "ComputedBuffers":
        was_meta = any(buffer.is_meta for buffer in self.buffers(recurse=False))
        super()._apply(fn, recurse)
        # model.to(bfloat16) means the weights, not the angles; to_empty() brings buffers that hold anything.
        if was_meta or any(buffer.dtype != torch.float32 for buffer in self.buffers(recurse=False)):
            self.reset_buffers()
        return self
