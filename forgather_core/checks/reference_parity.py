"""Reference parity: logits and gradients equal those of the reference, which implements the papers' equations.

The other checks pass for any consistent model, even with the wrong activation. So a definition may name a `Reference`,
which follows the papers' equations and shares no code with the model.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

from torch import Tensor

from ..definitions.check import DoesNotApply, Measured, check, expect
from ..reference import Weights, float64, surprise
from .shared.compared_gradients import Recomputation, compare_gradients, gradients_of, loss_gradients
from .shared.definition_reference import reference_of
from .shared.implementations import implementations
from .shared.model_under_test import ModelUnderTest
from .shared.tolerance import LARGE_EPS, compare, rounding

LENGTH = 12  # tokens: twice a shrunk window; references are slow


@check(
    "reference-parity",
    cause="an equation that was misread or mistyped, or a directory that was edited on purpose",
)
def reference_parity(subject: ModelUnderTest) -> Iterator[Measured]:
    """Logits and gradients equal those of the definition's reference, which follows the papers' equations."""
    logits = reference_of(subject).logits
    if logits is None:
        raise DoesNotApply("the definition's reference has no equations")
    text = subject.tokens(1, LENGTH)
    names = [name for name in subject.text_config.to_dict() if name.endswith("_eps")]
    cases: list[dict[str, Any]] = [{}, dict.fromkeys(names, LARGE_EPS)] if names else [{}]
    for changes in cases:
        where = "".join(f", {name} {value}" for name, value in changes.items())
        for attention in implementations(subject):
            model = subject.randomized_model(attention=attention, **changes, **subject.no_dropout)
            yield from _compare_with_reference(logits, model, text, f"{attention}{where}")


def _compare_with_reference(logits: Any, model: Any, text: Tensor, what: str) -> Iterator[Measured]:
    """Compare logits and gradients of one model."""
    weights, trained = _float64_weights(model)
    expected = logits(weights, text[0], model.config)
    outputs = model(text, labels=text)
    yield compare(f"{what}: logits", outputs.logits[0], expected, rounding(model), ("position",))
    surprise(expected, text[0]).mean().backward()  # type: ignore[no-untyped-call]
    outputs.loss.backward()
    wanted = {name: trained[name].grad for name, parameter in model.named_parameters() if parameter.requires_grad}
    unused = next((name for name, gradient in wanted.items() if gradient is None), None)
    yield expect(f"{what}: the reference uses every parameter", unused is None, unused)
    if unused is None:
        kept = {name: gradient for name, gradient in wanted.items() if gradient is not None}
        recomputed = Recomputation(model, partial(loss_gradients, model, input_ids=text, labels=text))
        yield compare_gradients(f"{what}: gradients", gradients_of(model), kept, rounding(model), recomputed)


def _float64_weights(model: Any) -> tuple[Weights, dict[str, Tensor]]:
    """Return float64 copies of the state dict, tied where the model is tied, and those of the parameters alone."""
    trained = float64(dict(model.named_parameters()), trainable=True)
    names = {p: name for name, p in model.named_parameters()}
    saved = model.state_dict(keep_vars=True)
    return {n: trained[names[t]] if t in names else t.detach().double() for n, t in saved.items()}, trained
