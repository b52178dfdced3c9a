"""Estimates: the counts and sizes that `estimate` reports without building a model are exact."""

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
from .shared.model_under_test import ModelUnderTest


@check("estimates", cause="a directory made with other options, or memory that the trace misses")
def estimates(subject: ModelUnderTest) -> Iterator[Measured]:
    """Parameters, weights, buffers and the cache have the sizes that `estimate` reports."""
    if subject.resolved is None:
        raise DoesNotApply("the check requires the options of a definition: use 'forgather -t NAME model verify'")
    whole = parameter_table(build(subject.directory, BuildOptions()))
    estimated = parameter_table(meta_model(subject.resolved))
    yield _compare_counts("parameters of the full model", estimated.total, whole.total)
    yield _compare_counts("trainable parameters of the full model", estimated.trainable, whole.trainable)
    for precision, dtype in (("fp32", "float32"), ("bf16", "bfloat16")):
        memory = Memory(subject.resolved, precision=precision, source=subject.workdir)
        held = memory.generation(1, 2).held
        options = BuildOptions(
            device="cpu", dtype=dtype, seed=subject.seed, attn_implementation=subject.default_attention
        )
        model: Any = build(subject.workdir, options).eval()
        yield _compare_counts(f"{dtype}: parameters", parameter_table(memory.model()).total, _parameters(model))
        yield _compare_counts(f"{dtype}: bytes of weights", held[WEIGHTS], _bytes(model.parameters()))
        yield _compare_counts(f"{dtype}: bytes of buffers", held.get(BUFFERS, 0), _bytes(model.buffers()))
        cache = memory.cache_per_token()
        yield _compare_counts(f"{dtype}: bytes of the cache per token", cache, _cache_per_token(model, subject))


def _compare_counts(what: str, estimated: int, found: int) -> Measured:
    return Measured(what, float(abs(estimated - found)), failure=f"{what}: estimated {estimated}, found {found}")


def _parameters(model: Any) -> int:
    return sum(p.numel() for p in model.parameters())


def _bytes(tensors: Any) -> int:
    """Return the bytes of all storages; a shared storage counts once."""
    return sum({t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors if t.numel()}.values())


@torch.no_grad()
def _cache_per_token(model: Any, subject: ModelUnderTest) -> int:
    """Return half the bytes of a cache of two tokens."""
    cache = model(subject.tokens(1, 2), use_cache=True)[CACHE]
    kept = [value for layer in cache.layers for value in vars(layer).values() if isinstance(value, Tensor)]
    return sum(t.numel() * t.element_size() for t in kept) // 2
