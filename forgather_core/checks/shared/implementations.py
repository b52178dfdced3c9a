"""The attention implementations that a model can be checked with on this machine."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import cache, partial, wraps
from typing import Any
from unittest import mock

import torch

from ...definitions.check import DoesNotApply
from ...errors import first_line
from .model_under_test import ATTENTIONS, FLEX, ModelUnderTest


def implementations(subject: ModelUnderTest) -> list[str]:
    """Return the implementations among eager and sdpa that the model and transformers support.

    Raises:
        DoesNotApply: Neither is supported: a check would measure nothing.
    """
    refused = subject.refused_attention
    found: list[str] = [name for name in ATTENTIONS if name not in refused and name != FLEX]
    if not found:
        reasons = "; ".join(f"{name}: {refused[name]}" for name in ATTENTIONS if name != FLEX)
        raise DoesNotApply(f"the check requires eager or sdpa, and the model refuses eager and sdpa ({reasons})")
    return found


def forward_implementations(subject: ModelUnderTest) -> list[str]:
    """Return the implementations that can compute a forward pass on CPU: eager, sdpa, flex_attention, or none."""
    return [name for name in ATTENTIONS if name not in subject.refused_attention]


def can_exchange_attention(model: type) -> bool:
    """Return whether models of a class read their attention implementation at each call."""
    can_exchange = getattr(model, "_can_set_attn_implementation", None)
    return can_exchange is None or bool(can_exchange())


@contextmanager
def uncompiled() -> Iterator[None]:
    """Run flex_attention and everything else without compilation, which is slow."""
    later = mock.patch.object(torch, "compile", _compile_later)
    with warnings.catch_warnings(), torch.compiler.set_stance("force_eager"), later:
        warnings.simplefilter("ignore")  # torch warns that this is slow
        yield


_compile_now = torch.compile


def _compile_later(function: Any = None, **options: Any) -> Any:
    """Take the place of `torch.compile`, whose first call imports the compiler: 0.8 s of CPU time.

    transformers keeps the result for all later calls in the process: the first one outside `uncompiled` compiles it.
    """
    if function is None:
        return partial(_compile_later, **options)
    if isinstance(function, torch.nn.Module):
        return _compile_now(function, **options)
    compiled = cache(partial(_compile_now, function, **options))

    @wraps(function)
    def call(*arguments: Any, **named: Any) -> Any:
        is_plain = torch.compile is not _compile_now or torch.compiler.is_compiling()
        return (function if is_plain else compiled())(*arguments, **named)

    return call


def uncompiled_flex(attention: str) -> AbstractContextManager[None]:
    """Return `uncompiled()` for flex_attention, and a context that does nothing for other implementations."""
    return uncompiled() if attention == FLEX else nullcontext()


def require_dropout(subject: ModelUnderTest) -> None:
    """Raise DoesNotApply if flex_attention, which has no dropout, is the only one, or the model refuses dropout."""
    if subject.default_attention == FLEX:
        raise DoesNotApply(f"the model refuses eager and sdpa, and {FLEX} does not support dropout")
    if subject.made_by_forgather or not subject.no_dropout:
        return
    try:
        model = subject.fresh_model_of(subject.constructed(dict.fromkeys(subject.no_dropout, 0.1)))
        model(subject.tokens(1), use_cache=False)
    except Exception as error:  # the code of others may raise any exception
        raise DoesNotApply(f"the model refuses dropout: {first_line(error)}") from None
