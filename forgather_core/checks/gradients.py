"""Gradients: every trainable parameter receives a gradient."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from torch import nn

from ..definitions.check import Measured, check, expect
from .shared.derivative import TOLERANCE, derivative_error, is_deterministic
from .shared.implementations import implementations
from .shared.inputs import with_special_tokens
from .shared.model_under_test import ModelUnderTest
from .shared.position_encoding import is_position_table

_OTHER_INPUTS = re.compile(
    r"(?:^|[._])(?:encoder_attn|cross_?att(?:ention|n)|vision|visual|audio|image|video)", re.IGNORECASE
)


@check("gradients", cause="a parameter that is unused, used under no_grad, or detached from the loss")
def gradients(subject: ModelUnderTest) -> Iterator[Measured]:
    """Every trainable parameter, and the embedding of every token of the text, receives a finite gradient.

    No gradient may be 0 everywhere, and each is the derivative of the loss. The embeddings of other tokens and of
    padding are not checked.
    """
    text = with_special_tokens(subject, subject.tokens(4))
    for number, attention in enumerate(implementations(subject)):
        model = subject.randomized_model(attention=attention, **subject.no_dropout).train()
        model(text, labels=text).loss.backward()
        unused = () if subject.made_by_forgather else (*_of_other_inputs(model), *_padded_tables(model))
        named = ((name, p) for name, p in model.named_parameters() if p.requires_grad and not name.startswith(unused))
        trained = {name: p.grad for name, p in named}
        yield expect(f"{attention}, there are trainable parameters", bool(trained))
        found = {name: grad for name, grad in trained.items() if grad is not None}
        if number == 0 and found.keys() == trained.keys() and is_deterministic(model, text):
            error, where = derivative_error(model, text, found, subject.seed)
            failure = f"a gradient is not the derivative of the loss: it is wrong by {error:.2g} of its size"
            what = f"{attention}, each gradient is the derivative of the loss"
            yield Measured(what, error, TOLERANCE, where, failure)
        faults = {
            "all parameters are in the graph of the loss": [name for name in trained if name not in found],
            "all gradients are finite": [name for name, grad in found.items() if not grad.isfinite().all()],
            "no gradient is 0 everywhere": [name for name, grad in found.items() if not grad.any()],
        }
        for what, names in faults.items():
            yield expect(f"{attention}, {what}", not names, _shortened(names))
        embedding = model.get_input_embeddings().weight
        if embedding.grad is not None:  # the last token of a row predicts nothing
            untrained = [i for i in sorted(set(text[:, :-1].flatten().tolist())) if not embedding.grad[i].any()]
            where = "embeddings of the tokens " + _shortened([str(i) for i in untrained])
            yield expect(f"{attention}, the embeddings of all tokens of the text are trained", not untrained, where)


def _of_other_inputs(model: Any) -> tuple[str, ...]:
    """Return the names of modules that text alone does not use: attention to an encoder, other modalities."""
    named = [name for name, _ in model.named_modules() if _OTHER_INPUTS.search(name)]
    return tuple(f"{name}." for name in named)


def _padded_tables(model: Any) -> list[str]:
    """Return the names of other tables than the embedding that have a row for padding, which an absent input reads."""
    tables = {name: one for name, one in model.named_modules() if isinstance(one, nn.Embedding)}
    known = model.get_input_embeddings()
    others = {name: one for name, one in tables.items() if one is not known and not is_position_table(name)}
    return [f"{name}." for name, one in others.items() if one.padding_idx is not None]


def _shortened(names: list[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
