"""Other implementation: the model and another implementation with the same weights give the same results.

The other checks pass for any consistent model, even with another activation or order of norms. So the results of all
calls of `call-agreement` are compared with those of another implementation: the one that `--against` names, or the
class of transformers that the configuration of a directory with its own code names.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from ..definitions.check import Details, DoesNotApply, Measured, check, expect
from ..model.difference import rms_difference
from ..model.kinds import kind_of
from .against.agreement import OtherAgreement
from .against.counterpart import Counterpart, cast
from .against.find import by_config, by_parameters, find_counterpart
from .against.options import compare_options
from .covering.calls import Calls
from .covering.failures import measured_cases
from .covering.requested import details_of, requested_array
from .shared.model_under_test import ModelUnderTest
from .shared.selection import Selections, same_selections
from .shared.tolerance import SIGMAS, compare

UNKNOWN = (
    "no other implementation is known, so a mistake in what the model is (activation, order of norms) is not found"
)
_LOW = torch.bfloat16
_MAX_RATIO = 1.5  # of the errors of two implementations that round in the same places, or almost
_LENGTH = 64


@check(
    "other-implementation", cause="an equation, a dtype or an initial value that differs from the other implementation"
)
def other_implementation(subject: ModelUnderTest) -> Iterator[Measured | Details]:
    """Every call gives the results of another implementation with the same weights, if one is known or named."""
    counterpart = _counterpart(subject)
    yield Details({"other implementation": counterpart.name})
    agreement = OtherAgreement(subject, counterpart)
    if agreement.problems and subject.scope.against is None:  # another model with the same name
        raise DoesNotApply(f"{UNKNOWN}; {counterpart.name} has other parameters")
    failure = f"the weights are not those of {counterpart.name}: {'; '.join(agreement.problems)}"
    yield expect(f"the weights are those of {counterpart.name}", not agreement.problems, failure=failure)
    if agreement.problems:
        return
    if not subject.made_by_forgather:  # the definitions have their own initialization
        yield from _compare_initial_weights(subject, counterpart)
        if counterpart.directory is None:
            yield from compare_options(subject, counterpart)
    yield from _compare_rounding(subject, agreement, counterpart)
    with Calls(subject, agreement) as calls:
        array = requested_array(agreement)
        failures = calls.failures(array.cases)
        yield from measured_cases(array.cases, calls.worst_of, failures)
        yield Details(details_of(agreement, array, failures))


def _counterpart(subject: ModelUnderTest) -> Counterpart:
    """Return the other implementation.

    Raises:
        DoesNotApply: None is known.
    """
    if subject.scope.against is not None:
        return find_counterpart(subject.scope.against, trusted=subject.scope.trust_remote_code)
    if (found := by_config(subject)) is not None:
        return found
    if subject.definition is not None:
        raise DoesNotApply("without --against; native-parity and reference-parity compare other implementations")
    if subject.is_builtin:
        raise DoesNotApply(f"{UNKNOWN}: --against names one")
    if kinds := by_parameters(subject):
        names = " or ".join(f"--against {kind}" for kind in kinds)
        raise DoesNotApply(f"{UNKNOWN}; the parameters have the names and shapes of other models: try {names}")
    raise DoesNotApply(f"{UNKNOWN}: --against names one")


def _compare_initial_weights(subject: ModelUnderTest, counterpart: Counterpart) -> Iterator[Measured]:
    """Compare mean and standard deviation of the initial weights of each kind that both implementations have."""
    own = subject.fresh_model()
    other = counterpart.fresh_model(subject, own.config)
    found, expected = (_by_kind(model) for model in (own, other))
    for kind in sorted(found.keys() & expected.keys()):
        one, two = found[kind], expected[kind]
        if one.numel() != two.numel():
            continue
        std, wanted = (float(values.std()) if len(values) > 1 else 0.0 for values in (one, two))
        error = 1 / math.sqrt(len(one))  # of a mean, in units of std; the variance of a std is half that of a mean
        what = f"initial {kind}: std {wanted:.4g}"
        failure = (
            f"initial {kind}: expected std {wanted:.4g} and mean {float(two.mean()):.4g}, as {counterpart.name} has"
        )
        failure += f"; got {std:.4g} and {float(one.mean()):.4g}"
        if wanted == 0 or std == 0:
            yield Measured(what, float((one - two).abs().max()), 0.0, failure=failure)
        else:
            yield Measured(what, abs(math.log(std / wanted)), SIGMAS * error, failure=failure)
            mean = abs(float(one.mean() - two.mean())) / wanted
            yield Measured(f"initial {kind}: mean", mean, SIGMAS * error * math.sqrt(2), failure=failure)


def _by_kind(model: nn.Module) -> dict[str, torch.Tensor]:
    kinds: dict[str, list[torch.Tensor]] = {}
    for name, parameter in model.named_parameters():
        kinds.setdefault(kind_of(name), []).append(parameter.detach().double().flatten())
    return {kind: torch.cat(parts) for kind, parts in kinds.items()}


def _compare_rounding(
    subject: ModelUnderTest, agreement: OtherAgreement, counterpart: Counterpart
) -> Iterator[Measured]:
    """Compare the results of both implementations in bfloat16.

    If float32 results are equal to the last bit, both run the same operations, and those in bfloat16 are equal, too.
    Otherwise, the rounding errors of both must be of the same size.
    """
    own, other = agreement.own, agreement.plain.model
    positions = getattr(subject.text_config, "max_position_embeddings", None) or _LENGTH
    text = subject.tokens(4, min(_LENGTH, positions))
    with torch.no_grad(), Selections() as selections:
        exact, other_exact = (model(text, use_cache=False).logits for model in (own, other))
    low, other_low = (cast(model, _LOW, subject) for model in (own, other))
    with torch.no_grad():
        for what, pair in {
            "bfloat16": (low, other_low),
            "autocast to bfloat16": (_autocast(own), _autocast(other)),
        }.items():
            with same_selections(selections.found):
                found, expected = (model(text, use_cache=False).logits for model in pair)
            if torch.equal(exact, other_exact):
                yield compare(
                    f"{what}: logits (in float32 they are equal to those of {counterpart.name})", found, expected
                )
                continue
            error, usual = rms_difference(found, exact), rms_difference(expected, other_exact)
            failure = f"{what}: the rounding error is {error:.2g} of the logits; that of {counterpart.name} {usual:.2g}"
            yield Measured(f"{what}: relative rounding error", error / usual, _MAX_RATIO, failure=failure)


def _autocast(model: Any) -> Any:
    return torch.autocast("cpu", _LOW)(model.forward)
