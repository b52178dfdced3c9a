"""Initial weights: their std, measured over all weights of a kind, is that of the definition's initialization table.

The standard error of a standard deviation of n samples is std / sqrt(2n) for the normal distribution, and less for
distributions with shorter tails; that of a mean is std / sqrt(n). Six standard errors are allowed: a correct
statistic exceeds them with probability 2e-9.

Without a table, the only requirement is that weights are random; those of other classes must be set.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from ..definitions import contracts
from ..definitions.check import Measured, check, expect
from ..model.build import build
from ..model.kinds import kind_of
from ..options.shared import BuildOptions
from ..parts.table_init import find_rule
from .shared.meta_initialization import new_memory_is_nan
from .shared.model_under_test import ModelUnderTest
from .shared.tolerance import SIGMAS

_ELEMENTS = 600_000  # of the embedding whose rows are examined
# Rules of parts/initial_weights.py with mean 0. Compared by name: an exported copy defines its own classes.
_SYMMETRIC = ("Normal", "TruncatedNormal", "XavierNormal", "FanInUniform")


@check("initial-weights", cause="an initialization that never ran, ran twice, or used a rule that is not in the table")
def initial_weights(subject: ModelUnderTest) -> Iterator[Measured]:
    """Initial weights follow the definition's initialization table, whichever way the model is made."""
    with new_memory_is_nan():  # no weight is finite by chance
        model = subject.fresh_model()
    yield from _check_model(subject, "from_config", model)
    options = BuildOptions(
        device="cpu", dtype="float32", seed=subject.seed, attn_implementation=subject.default_attention
    )
    with new_memory_is_nan():
        model = build(subject.workdir, options)
    yield from _check_model(subject, "build", model)
    yield from _check_rows(subject)


def _check_model(subject: ModelUnderTest, way: str, model: Any) -> Iterator[Measured]:
    kinds: dict[str, dict[str, nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        kinds.setdefault(kind_of(name), {})[name] = parameter
    yield expect(f"{way}: the model has weights", bool(kinds))
    invalid = next((name for name, p in model.named_parameters() if p.is_meta or not p.isfinite().all()), None)
    yield expect(f"{way}: all weights are finite", invalid is None, invalid)
    if invalid is not None:
        return
    table = contracts.initial_weights(model)
    tied = getattr(model, "all_tied_weights_keys", None) or {}
    for kind, parameters in kinds.items():
        if table is None and subject.made_by_forgather:
            yield from _check_random(f"{way}: {kind}", parameters)
        if table is None:  # other classes may set constants: routers, gates
            continue
        try:
            rules = [find_rule(table, tied.get(name, name)) for name in parameters]
        except ValueError as error:
            yield expect(f"{way}: the table has a rule for {kind}", False, kind, failure=f"{way}: {error}")
            continue
        yield from _compare_with_rule(f"{way}: {kind}", rules, list(parameters.values()))
    # Other classes draw the row of padding, too, where head and embedding are tied.
    if table is not None or subject.made_by_forgather:
        yield from _check_padding(way, model)
    yield _check_different(way, model, () if subject.made_by_forgather else _constant(subject, model))


def _compare_with_rule(what: str, rules: list[Any], parameters: list[nn.Parameter]) -> Iterator[Measured]:
    rule, shape = rules[0], parameters[0].shape
    if hasattr(rule, "values"):
        error = max(_largest_error(p.detach(), r.values) for r, p in zip(rules, parameters, strict=True))
        yield Measured(f"{what}: the exact values of {rule}", error)
        return
    pieces = [
        _without_row(p.detach(), r.zero_row).flatten().double() / r.std(p.shape)
        for r, p in zip(rules, parameters, strict=True)
    ]
    samples = torch.cat(pieces)  # each in units of its std
    count, mean = samples.numel(), float(samples.mean())
    error = abs(float((samples - mean).square().mean().sqrt()) - 1)
    std = rule.std(shape)
    tolerance = SIGMAS / math.sqrt(2 * count) + 1 / count
    got = f"{std * float(samples.std()):.4g}" if count > 1 else "a single value"
    failure = f"{what}: expected std {std:.4g}, got {got} (relative error {error:.2g}, tolerance {tolerance:.2g})"
    yield Measured(f"{what}: std {std:.4g}", error, tolerance, what.partition(": ")[2], failure)
    if type(rule).__name__ in _SYMMETRIC:
        yield Measured(f"{what}: mean 0, in units of std", abs(mean), SIGMAS / math.sqrt(count))


def _largest_error(tensor: Tensor, values: tuple[float, ...]) -> float:
    expected = torch.tensor(values, dtype=torch.float32)
    if len(values) not in (1, tensor.numel()):
        return math.inf
    return float((tensor - expected.to(tensor.dtype).view(-1 if len(values) == 1 else tensor.shape)).abs().max())


def _without_row(tensor: Tensor, row: int | None) -> Tensor:
    return tensor if row is None else torch.cat((tensor[:row], tensor[row + 1 :]))


def _check_random(what: str, parameters: dict[str, nn.Parameter]) -> Iterator[Measured]:
    """Check that matrices are random; vectors may be constant, as the scales of norms and biases are."""
    constant = [name for name, p in parameters.items() if p.dim() >= 2 and min(p.shape) > 1 and p.std() == 0]
    yield expect(f"{what}: is random", not constant, next(iter(constant), None))


def _constant(subject: ModelUnderTest, model: nn.Module) -> set[str]:
    """Return the names of parameters that no seed changes."""
    other = dict(subject.fresh_model(seed=subject.seed + 1).named_parameters())
    return {name for name, p in model.named_parameters() if torch.equal(p, other[name])}


def _check_different(way: str, model: nn.Module, constant: Collection[str]) -> Measured:
    """Check that no two random matrices of one shape are equal."""
    random = [(name, p.detach()) for name, p in model.named_parameters() if p.dim() >= 2 and name not in constant]
    drawn = [(name, p) for name, p in random if p.std() > 0]
    pairs = ((a, b) for i, a in enumerate(drawn) for b in drawn[:i] if a[1].shape == b[1].shape)
    equal = next((f"{one[0]} and {two[0]}" for one, two in pairs if torch.equal(one[1], two[1])), None)
    return expect(f"{way}: no two weights are equal", equal is None, equal)


def _check_rows(subject: ModelUnderTest) -> Iterator[Measured]:
    """Check that no row of a random embedding is constant, except that of padding, and that no two are equal.

    Weights may be drawn in pieces, so the embedding has more elements than a piece.
    """
    config = subject.config()
    if config.get_text_config() is config and (hidden_size := getattr(config, "hidden_size", None)):
        config.vocab_size = max(config.vocab_size, _ELEMENTS // hidden_size)
    model = subject.fresh_model_of(config)
    for name, module in model.named_modules():
        if isinstance(module, nn.Embedding) and min(module.weight.shape) > 1 and module.weight.std() > 0:
            constant = (module.weight.detach().std(dim=1) == 0).nonzero().flatten().tolist()
            rows = [row for row in constant if row != module.padding_idx]
            failure = f"{name}: {len(rows)} of {len(module.weight)} rows are constant, such as {rows[:3]}"
            yield expect(f"{name}: no row is constant, except padding", not rows, failure=failure)
            repeated = len(module.weight) - len(torch.unique(module.weight.detach(), dim=0))
            failure = f"{name}: {repeated} of {len(module.weight)} rows are equal to another row"
            yield expect(f"{name}: no two rows are equal", not repeated or bool(rows), failure=failure)


def _check_padding(way: str, model: nn.Module) -> Iterator[Measured]:
    for name, module in model.named_modules():
        if isinstance(module, nn.Embedding) and module.padding_idx is not None:
            row = module.weight.detach()[module.padding_idx]
            yield Measured(f"{way}: {name}: the padding row {module.padding_idx} is 0", float(row.abs().max()))
