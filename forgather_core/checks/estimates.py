"""Estimates: what `estimate` says of a model, without making it, is what the model has. Counts are exact."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from ..definitions.check import DoesNotApply, Measured, check
from ..estimate.memory import Memory
from ..estimate.timeline import BUFFERS, WEIGHTS
from ..model.build import build
from ..model.meta_model import meta_model
from ..model.parameters import parameter_table
from ..options.shared import BuildOptions
from ..parts.caches import CACHE
from .subject import ModelUnderTest


@check("estimates", cause="a directory that is not of these settings, memory that a trace does not see")
def estimates(subject: ModelUnderTest) -> Iterator[Measured]:
    """Parameters, weights, buffers and the cache are as large as `estimate` says."""
    if subject.settings is None:
        raise DoesNotApply("only a definition's settings can be estimated")
    whole = parameter_table(build(subject.directory, BuildOptions()))
    promised = parameter_table(meta_model(subject.settings))
    yield _equal("parameters, by the settings", promised.total, whole.total)
    yield _equal("trainable parameters, by the settings", promised.trainable, whole.trainable)
    for precision, dtype in (("fp32", "float32"), ("bf16", "bfloat16")):
        memory = Memory(subject.settings, precision=precision, directory=subject.place)
        held = memory.generation(1, 2).held
        options = BuildOptions(
            device="cpu", dtype=dtype, seed=subject.seed, attn_implementation=subject.default_attention
        )
        model: Any = build(subject.place, options).eval()
        yield _equal(f"{dtype}: parameters", parameter_table(memory.model()).total, _count(model))
        yield _equal(f"{dtype}: bytes of weights", held[WEIGHTS], _bytes(model.parameters()))
        yield _equal(f"{dtype}: bytes of buffers", held.get(BUFFERS, 0), _bytes(model.buffers()))
        yield _equal(f"{dtype}: bytes of the cache for a token", memory.cache_per_token(), _cache(model, subject))


def _equal(what: str, said: int, found: int) -> Measured:
    return Measured(what, float(abs(said - found)), where=f"it has {found}, and is said to have {said}")


def _count(model: Any) -> int:
    return sum(p.numel() for p in model.parameters())


def _bytes(tensors: Any) -> int:
    """Of all storages; what shares one counts once."""
    return sum({t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors if t.numel()}.values())


@torch.no_grad()
def _cache(model: Any, subject: ModelUnderTest) -> int:
    """By how much two tokens more make it larger, halved."""
    cache = model(subject.tokens(1, 2), use_cache=True)[CACHE]
    kept = [value for layer in cache.layers for value in vars(layer).values() if isinstance(value, Tensor)]
    return sum(t.numel() * t.element_size() for t in kept) // 2
