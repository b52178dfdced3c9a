"""Buffers that are computed and not saved."""

from collections.abc import Callable

import torch
from torch import Tensor, nn


class ComputedBuffers(nn.Module):
    """Base of modules with buffers computed from constructor arguments, float32 in a model of any dtype.

    Checkpoints do not contain these buffers. After construction on meta, `to_empty()` or a load their values are
    undefined until `reset_buffers()` is called; a change of device or dtype calls it.
    """

    def reset_buffers(self) -> None:
        """Recompute the buffers on their device."""
        raise NotImplementedError

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "ComputedBuffers":
        was_meta = any(buffer.is_meta for buffer in self.buffers(recurse=False))
        super()._apply(fn, recurse)
        # model.to(bfloat16) must not round angles; to_empty() leaves undefined values.
        if was_meta or any(buffer.dtype != torch.float32 for buffer in self.buffers(recurse=False)):
            self.reset_buffers()
        return self
