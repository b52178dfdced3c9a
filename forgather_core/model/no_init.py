"""`no_init_weights()`: build a model without drawing the weights that a checkpoint will overwrite."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

# Only what draws numbers is skipped. Constants (ones of a norm, a zero padding row) cost nothing and stay right.
RANDOM_INITIALISERS = (
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
    """Skip random initial weights of modules built within the block.

    Whatever a checkpoint brings is left unset, uninitialised memory that may hold NaN. The rest is right: RoPE tables
    and other buffers, constants, tied pairs. That last is where this differs from transformers' own manager, which
    replaces `init_weights` whole and leaves tied weights apart. Works for any torch module, nests, and restores
    everything on the way out. Not for concurrent use by threads: it replaces functions of torch.
    """
    import torch
    from transformers import modeling_utils  # imported within the block, its models would draw

    patched: list[tuple[Any, str, Any]] = []

    def patch(owner: Any, name: str, value: Any) -> None:
        patched.append((owner, name, getattr(owner, name)))
        setattr(owner, name, value)

    try:
        # Some modules of torch hold initialisers under their own name.
        originals = {id(getattr(torch.nn.init, name)): name for name in RANDOM_INITIALISERS}
        modules = [m for n, m in list(sys.modules.items()) if n.startswith("torch.nn.") and m is not None]
        for module in modules:
            for name in RANDOM_INITIALISERS:
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
