"""Seeds and dropout: what is random is so by the seed, and in training only."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from ..definitions.check import Measured, check, expect
from .attentions import needs_dropout
from .subject import ModelUnderTest, randomize_weights
from .tolerance import compared, unlike

HALF = 0.5
_ENDINGS = ("dropout", "pdrop")


@check("same-seed", cause="randomness beside torch's generator, dropout outside training, an option it does not reach")
def same_seed(subject: ModelUnderTest) -> Iterator[Measured]:
    """The same seed gives the same weights, another seed others, and nothing is random but dropout in training."""
    first, again, other = subject.fresh_model(), subject.fresh_model(), subject.fresh_model(seed=subject.seed + 1)
    wrong = unlike(dict(first.named_parameters()), dict(again.named_parameters()))
    yield expect("the same seed, the same weights", not wrong, ", ".join(wrong[:3]))
    drawn = {name for name, p in first.named_parameters() if p.dim() >= 2 and p.std() > 0}
    yield expect("some weights are drawn at random", bool(drawn))
    alike = [name for name in drawn if torch.equal(first.get_parameter(name), other.get_parameter(name))]
    yield expect("another seed, other weights", not alike, ", ".join(sorted(alike)))
    needs_dropout(subject)
    options = dropouts(subject.config())
    without = _strong(subject, dict.fromkeys(options, 0.0))
    text = subject.tokens(2)
    with torch.no_grad():
        plain = without.eval()(text).logits
        yield compared("eval, twice", without(text).logits, plain)
        without.train()
        yield compared("training without dropout, and eval", without(text, use_cache=False).logits, plain)
        # transformers' own have some that are for other heads: there, all at once.
        for names in filter(None, [options] if subject.is_builtin else [[name] for name in options]):
            what = ", ".join(names)
            dropping = _strong(subject, dict.fromkeys(options, 0.0) | dict.fromkeys(names, HALF))
            yield compared(f"eval, {what} at {HALF}, and at 0", dropping.eval()(text).logits, plain)
            dropping.train()
            one, two = (dropping(text, use_cache=False).logits for _ in range(2))
            yield expect(f"training with {what}, twice: not the same", not torch.equal(one, two), what)
            yield compared(f"eval after training with {what}", dropping.eval()(text).logits, plain)


def dropouts(config: Any) -> list[str]:
    """The names of a configuration's dropout probabilities."""
    content = config.to_dict()
    return [n for n, v in content.items() if n.endswith(_ENDINGS) and isinstance(v, (int, float)) and v is not True]


def _strong(subject: ModelUnderTest, changes: dict[str, float]) -> Any:
    model = subject.fresh_model_of(subject.constructed(changes))
    randomize_weights(model, subject.seed)
    return model
