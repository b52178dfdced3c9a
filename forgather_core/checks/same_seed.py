"""Same seed: randomness depends on the seed, and a model is random in training only."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Any

import torch

from ..definitions import contracts
from ..definitions.check import Measured, check, expect
from .shared.implementations import require_dropout
from .shared.model_under_test import ModelUnderTest
from .shared.sharded_initialization import SHARDINGS, can_shard, initialized_shard, part_of
from .shared.tolerance import compare, different_tensors

PROBABILITY = 0.5
_SUFFIXES = ("dropout", "pdrop", "dropout_prob", "dropout_rate")


@check(
    "same-seed",
    cause="randomness outside torch's generator, dropout outside training, or an ignored dropout option",
)
def same_seed(subject: ModelUnderTest) -> Iterator[Measured]:
    """The same seed gives the same weights, in shards too; another gives others; only dropout in training is random."""
    first, second, other = subject.fresh_model(), subject.fresh_model(), subject.fresh_model(seed=subject.seed + 1)
    wrong = different_tensors(dict(first.named_parameters()), dict(second.named_parameters()))
    yield expect("the same seed gives the same weights", not wrong, ", ".join(wrong[:3]))
    drawn = {name for name, p in first.named_parameters() if p.dim() >= 2 and p.std() > 0}
    yield expect("some weights are random", bool(drawn))
    equal = [name for name in drawn if torch.equal(first.get_parameter(name), other.get_parameter(name))]
    if not subject.made_by_forgather and len(equal) < len(drawn):
        equal = [name for name in equal if _is_random(first.get_parameter(name))]
    yield expect("another seed gives other weights", not equal, ", ".join(sorted(equal)))
    same = _equal_weights(first, equal)
    failure = f"weights are equal: {' and '.join(same)}"
    yield expect("no two weights are equal", not same, failure=failure)
    if contracts.initial_weights(first) is not None:
        if can_shard():
            yield from _check_shards(subject, first)
        yield _check_low(subject, first)
        torch.manual_seed(subject.seed + 1)
        second.init_weights()
        wrong = different_tensors(dict(second.named_parameters()), dict(other.named_parameters()))
        failure = "init_weights() of an existing model does not use the current seed"
        yield expect("init_weights() again uses the current seed", not wrong, ", ".join(wrong[:3]), failure=failure)
    require_dropout(subject)
    options = dropouts(subject.config())
    without = _randomized(subject, dict.fromkeys(options, 0.0))
    text = subject.tokens(2)
    with torch.no_grad():
        plain = without.eval()(text).logits
        yield compare("eval, repeated", without(text).logits, plain)
        without.train()
        yield compare("training without dropout, compared with eval", without(text, use_cache=False).logits, plain)
        # Some dropouts of other models belong to other heads, so these models get all dropouts at once.
        for names in filter(None, [[name] for name in options] if subject.made_by_forgather else [options]):
            what = ", ".join(names)
            dropping = _randomized(subject, dict.fromkeys(options, 0.0) | dict.fromkeys(names, PROBABILITY))
            yield compare(f"eval, {what} at {PROBABILITY}, compared with 0", dropping.eval()(text).logits, plain)
            dropping.train()
            one, two = (dropping(text, use_cache=False).logits for _ in range(2))
            yield expect(f"training with {what}, repeated: the logits differ", not torch.equal(one, two))
            yield compare(f"eval after training with {what}", dropping.eval()(text).logits, plain)


def _is_random(weight: Any) -> bool:
    """Return whether a matrix has as many values as a drawn one: recurrent layers of others have fixed decays."""
    is_matrix = sum(size > 1 for size in weight.shape) > 1
    return bool(weight.requires_grad and is_matrix and weight.unique().numel() > weight.numel() / 2)


def _equal_weights(model: Any, fixed: Collection[str]) -> list[str]:
    """Return the names of two random weights with the same values, or none; those that no seed changes are reported."""
    found: dict[Any, tuple[str, Any]] = {}
    for name, weight in model.named_parameters():
        if not _is_random(weight) or name in fixed:
            continue
        key = tuple(weight.shape), weight.flatten()[:16].tolist().__repr__()
        if key in found and torch.equal(found[key][1], weight):
            return [found[key][0], name]
        found.setdefault(key, (name, weight))
    return []


def _check_low(subject: ModelUnderTest, model: Any) -> Measured:
    """Check that a model built in bfloat16 has the weights of a float32 model, rounded."""
    from transformers import AutoModelForCausalLM

    torch.manual_seed(subject.seed)
    low = AutoModelForCausalLM.from_config(subject.config(), dtype=torch.bfloat16, **subject.loading)
    expected = dict(model.named_parameters())
    found = {name: parameter.detach() for name, parameter in low.named_parameters()}
    wrong = different_tensors(found, {name: expected[name].detach().to(one.dtype) for name, one in found.items()})
    failure = "a model built in bfloat16 has other weights than the rounded ones of float32"
    return expect("weights in bfloat16 are those of float32, rounded", not wrong, ", ".join(wrong[:3]), failure=failure)


def _check_shards(subject: ModelUnderTest, model: Any) -> Iterator[Measured]:
    """Check that a process of a device mesh has its part of the same weights."""
    for name, dims in SHARDINGS.items():
        parts = {name: part_of(parameter, dims) for name, parameter in model.named_parameters()}
        wrong = different_tensors(initialized_shard(subject, dims), parts)
        failure = f"a model that is sharded by {name} before its initialization has other weights"
        yield expect(f"sharded by {name}: the same weights", not wrong, ", ".join(wrong[:3]), failure=failure)


def dropouts(config: Any) -> list[str]:
    """Return the names of a configuration's dropout probabilities."""
    content = config.to_dict()
    return [n for n, v in content.items() if n.endswith(_SUFFIXES) and isinstance(v, (int, float)) and v is not True]


def _randomized(subject: ModelUnderTest, changes: dict[str, float]) -> Any:
    return subject.randomized(subject.fresh_model_of(subject.constructed(changes)))
