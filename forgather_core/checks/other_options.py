"""Other options: with other values of most options at once, usual calls and other checks give the right results.

The other checks run on the configuration of the directory, so a feature that is off there, such as a sliding window, is
under test here only. If a call or a check fails, the options are tried one by one.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

from ..definitions.check import Check, DoesNotApply, Measured, check, expect, failure_text
from .adapters import adapters
from .attention_backends import attention_backends
from .attention_cost import attention_cost
from .batch_invariance import batch_invariance
from .buffers import buffers
from .cache_size import cache_size
from .causality import causality
from .continuous_batching import continuous_batching
from .covering.agreement import Agreement
from .covering.factors import Case, case_id
from .covering.failures import deviation_text, excess
from .covering.usual import usual_cases
from .dropout import dropout
from .generation import generation
from .gradient_checkpointing import gradient_checkpointing
from .gradients import gradients
from .hidden_states import hidden_states
from .initial_weights import initial_weights
from .inputs_embeds import inputs_embeds
from .kv_cache import kv_cache
from .loss import loss
from .packing_isolation import packing_isolation
from .padding import padding
from .parallel_plans import parallel_plans
from .positions import positions
from .precision import precision
from .round_trip import round_trip
from .same_seed import same_seed
from .shared.model_under_test import ModelUnderTest
from .shared.option_fields import options_of
from .shared.other_values import Values, other_values
from .sliding_window import sliding_window
from .state_dict import state_dict
from .try_check import FAILED, try_check

# Options that change the size of the model; the small copy has sizes that the other checks need.
_SIZES = frozenset(
    {
        "hidden_size",
        "intermediate_size",
        "max_position_embeddings",
        "num_attention_heads",
        "num_hidden_layers",
        "vocab_size",
    }
)
HEADS, GROUPS = "num_attention_heads", "num_key_value_heads"
_WINDOW = 8  # tokens: a usual text is longer, and each token has others in its window
# The checks that are run with other options: those of calls and weights that are quick. call-agreement has usual cases.
_CHECKS = (
    causality, sliding_window, packing_isolation, padding, batch_invariance, positions, attention_backends, kv_cache,
    cache_size, attention_cost, generation, continuous_batching, inputs_embeds, hidden_states, adapters, loss,
    gradients, gradient_checkpointing, dropout, precision, initial_weights, same_seed, buffers, state_dict, round_trip,
    parallel_plans,
)  # fmt: skip


@check("other-options", cause="a feature that is correct with its default value only", quick=False)
def other_options(subject: ModelUnderTest) -> Iterator[Measured]:
    """With other values of most options at once, usual calls and the other checks give the same results."""
    changes = _other_values(subject)
    if not changes:
        raise DoesNotApply("no option has another value that is valid with the others")
    causes: dict[str, Any] = {}
    failed = False
    with _variant(subject, changes) as variant:
        for case, worst in _usual_calls(variant):
            failure = None
            if not worst.holds:
                failed = True
                causes = _causes(subject, changes, partial(_call_fails, case), causes)
                failure = f"{_named(causes, changes)}: {case_id(case)}: {deviation_text(worst)}"
            yield Measured(case_id(case), worst.error, worst.tolerance, worst.where, failure)
        for one in () if failed else _CHECKS:  # the checks would find the same mistake again
            problem = _problem(one, variant)
            if problem is None:
                yield expect(one.name, True)
            elif _problem(one, subject) is None:  # not a mistake that its own row reports
                causes = _causes(subject, changes, partial(_problem, one), causes)
                yield expect(one.name, False, failure=f"{_named(causes, changes)}: {one.name}: {problem}")


def _other_values(subject: ModelUnderTest) -> dict[str, Any]:
    """Return another value for each option that has one which is valid with the others."""
    config = subject.config()
    options = options_of(config)
    grouping = _other_grouping(config) if options and _is_valid(subject, _other_grouping(config)) else {}
    found: dict[str, Any] = {**grouping}
    for option in options:
        if option.name in _SIZES or (grouping and option.name == GROUPS):
            continue
        candidates = [*other_values(option, getattr(config, option.name))]
        for value in sorted(candidates, key=lambda one: one[option.name] != _WINDOW):
            if _is_valid(subject, {**found, **value}):
                found |= value
                break
    return found


def _other_grouping(config: Any) -> dict[str, Any]:
    """Return changes that group the heads in pairs, or that ungroup them. Two groups show a wrong order of heads."""
    heads, groups = (getattr(config, name, None) for name in (HEADS, GROUPS))
    if heads is None or groups is None:
        return {}
    return {HEADS: 2 * groups} if heads == groups else {GROUPS: heads}


def _is_valid(subject: ModelUnderTest, changes: Values) -> bool:
    try:
        subject.fresh_model_of(subject.constructed({**subject.underived(), **changes}))
    except Exception:  # transformers or the definition rejects the value
        return False
    return True


def _usual_calls(subject: ModelUnderTest) -> Iterator[tuple[Case, Measured]]:
    """Yield each usual call and its largest deviation."""
    agreement = Agreement(subject)
    for case in usual_cases(agreement.levels, agreement.rules):
        yield case, max(agreement.run(case), key=excess)


def _call_fails(case: Case, subject: ModelUnderTest) -> bool:
    return not all(one.holds for one in Agreement(subject).run(case))


def _problem(one: Check, subject: ModelUnderTest) -> str | None:
    """Return the first failure of a check, or None."""
    row = try_check(one, subject)
    if row["result"] != FAILED:
        return None
    failed = [case for case in row["measured"] if not case["holds"]]
    return failure_text(failed[0]) if failed else str(row["reason"])


@contextmanager
def _variant(subject: ModelUnderTest, changes: Mapping[str, Any]) -> Iterator[ModelUnderTest]:
    """Provide a copy of the model with other options."""
    with subject.scratch() as temporary:
        directory, workdir = temporary / "changed" / subject.workdir.name, temporary / "work"
        shutil.copytree(subject.workdir, directory)
        workdir.mkdir()
        config = subject.constructed({**subject.underived(), **changes})
        (directory / "config.json").write_text(config.to_json_string(use_diff=False), encoding="utf-8")
        yield ModelUnderTest(directory, workdir, full=True, seed=subject.seed, scope=subject.scope)


def _causes(
    subject: ModelUnderTest,
    changes: Mapping[str, Any],
    fails: Callable[[ModelUnderTest], Any],
    known: Mapping[str, Any],
) -> dict[str, Any]:
    """Return the options whose other value alone makes a model fail.

    Args:
        subject: The model under test.
        changes: The other values of all options.
        fails: Whether a model fails.
        known: The causes of an earlier failure, which are tried first: a mistake usually shows in several cases.
    """
    for candidates in (known, changes):
        alone: dict[str, Any] = {}
        for name, value in candidates.items():
            if _is_valid(subject, {name: value}):
                with _variant(subject, {name: value}) as variant:
                    alone |= {name: value} if fails(variant) else {}
        if alone:
            return alone
    return {}


def _named(causes: Mapping[str, Any], changes: Mapping[str, Any]) -> str:
    """Return the causes of a failure as text; all changes if none of them is one alone."""
    if causes:
        return ", ".join(f"{name}={value}" for name, value in causes.items())
    return "these options together: " + ", ".join(f"{name}={value}" for name, value in changes.items())
