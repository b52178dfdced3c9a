"""Gradients: every parameter that is to be trained is trained."""

from __future__ import annotations

from collections.abc import Iterator

from ..definitions.check import Measured, check, expect
from .attentions import implementations
from .subject import ModelUnderTest


@check("gradients", cause="a parameter that nothing uses, that is used under no_grad, or detached from the loss")
def gradients(subject: ModelUnderTest) -> Iterator[Measured]:
    """Every trainable parameter, and the embedding of every token of the text, receives a gradient that is finite.

    It is not zero everywhere. Rows of embeddings that no token of the text has, and padding, have none by nature.
    """
    text = subject.tokens(4)
    for attention in implementations(subject):
        model = subject.model(attention=attention, **subject.no_dropout).train()
        model(text, labels=text).loss.backward()
        trained = {name: p.grad for name, p in model.named_parameters() if p.requires_grad}
        yield expect(f"{attention}, there is something to train", bool(trained))
        found = {name: grad for name, grad in trained.items() if grad is not None}
        faults = {
            "in the graph of the loss": [name for name in trained if name not in found],
            "finite": [name for name, grad in found.items() if not grad.isfinite().all()],
            "not zero everywhere": [name for name, grad in found.items() if not grad.any()],
        }
        for what, names in faults.items():
            yield expect(f"{attention}, all gradients are {what}", not names, _some(names))
        embedding = model.get_input_embeddings().weight
        if embedding.grad is not None:  # the last token of a row comes before none
            still = [i for i in sorted(set(text[:, :-1].flatten().tolist())) if not embedding.grad[i].any()]
            where = "embeddings of the tokens " + _some([str(i) for i in still])
            yield expect(f"{attention}, all tokens of the text are trained", not still, where)


def _some(names: list[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
