"""`no_init_weights()`: build a model without computing initial weights that a checkpoint will overwrite."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

# Only random initializers are skipped. Constants (ones of a norm, a zero padding row) cost nothing and stay correct.
RANDOM_INITIALIZERS = (
    "uniform_",
    "normal_",
    "trunc_normal_",
    "xavier_uniform_",
    "xavier_normal_",
    "kaiming_uniform_",
    "kaiming_normal_",
    "orthogonal_",
    "sparse_",
)


@contextmanager
def no_init_weights() -> Iterator[None]:
    """Skip the random initialization of modules built within the block.

    Randomly initialized parameters stay uninitialized memory, which may contain NaN. Buffers (RoPE tables), constants
    and tied weights are correct. transformers' own context manager, by contrast, replaces `init_weights` entirely and
    leaves tied weights untied. It works for any torch module, can be nested, and restores everything on exit. It is
    not thread-safe, because it replaces functions of torch.
    """
    import torch
    from transformers import modeling_utils  # imported before the block, so that its models are patched

    patched: list[tuple[Any, str, Any]] = []

    def patch(owner: Any, name: str, value: Any) -> None:
        patched.append((owner, name, getattr(owner, name)))
        setattr(owner, name, value)

    try:
        # Some torch modules hold initializers under their own name.
        originals = {id(getattr(torch.nn.init, name)): name for name in RANDOM_INITIALIZERS}
        modules = [m for n, m in list(sys.modules.items()) if n.startswith("torch.nn.") and m is not None]
        for module in modules:
            for name in RANDOM_INITIALIZERS:
                if id(vars(module).get(name)) in originals:
                    patch(module, name, _leave_unset)
        patch(modeling_utils.PreTrainedModel, "init_weights", _only_tie)
        yield
    finally:
        for owner, name, value in reversed(patched):
            setattr(owner, name, value)


def _leave_unset(tensor: Any, *_: Any, **__: Any) -> Any:
    return tensor


def _only_tie(model: Any) -> None:
    model.tie_weights()
