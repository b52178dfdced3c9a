"""The attention implementations that a model can be checked with on this machine."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from ..definitions.check import DoesNotApply
from .subject import ATTENTIONS, FLEX, ModelUnderTest


def implementations(subject: ModelUnderTest) -> list[str]:
    """Return those of eager and sdpa that neither the model nor transformers refuses.

    Raises:
        DoesNotApply: Both are refused. A check that tries each of them would measure nothing.
    """
    refused = subject.refused_attention
    found: list[str] = [name for name in ATTENTIONS if name not in refused and name != FLEX]
    if not found:
        reasons = "; ".join(f"{name}: {refused[name]}" for name in ATTENTIONS if name != FLEX)
        raise DoesNotApply(f"the model refuses eager and sdpa, with which this check is made ({reasons})")
    return found


def forward_implementations(subject: ModelUnderTest) -> list[str]:
    """Return the same and flex_attention, which computes forward passes alone on CPU; there may be none."""
    return [name for name in ATTENTIONS if name not in subject.refused_attention]


@contextmanager
def uncompiled() -> Iterator[None]:
    """Run everything as it is written, flex_attention too, which takes long to compile."""
    with warnings.catch_warnings(), torch.compiler.set_stance("force_eager"):
        warnings.simplefilter("ignore")  # torch says that it is slow
        yield


def needs_dropout(subject: ModelUnderTest) -> None:
    """Raise DoesNotApply where the only implementation left is flex_attention, which has no dropout."""
    if subject.default_attention == FLEX:
        raise DoesNotApply(f"the model refuses eager and sdpa, and {FLEX} has no dropout")
