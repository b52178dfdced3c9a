"""Other options: with other values of most options at once, usual calls give the results of the plain call.

The other checks run on the configuration of the directory, so a feature that is off there, such as a sliding window, is
under test here only. If a call fails, the options are tried one by one.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from ..definitions.check import DoesNotApply, Measured, check
from .covering.agreement import Agreement
from .covering.factors import Case, case_id
from .covering.failures import deviation_text, excess
from .covering.usual import usual_cases
from .shared.model_under_test import ModelUnderTest
from .shared.option_fields import options_of
from .shared.other_values import Values, other_values

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
_WINDOW = 8  # tokens: a usual text is longer, and each token has others in its window


@check("other-options", cause="a feature that is correct with its default value only", quick=False)
def other_options(subject: ModelUnderTest) -> Iterator[Measured]:
    """With other values of most options at once, usual calls give the results of the plain call."""
    changes = _other_values(subject)
    if not changes:
        raise DoesNotApply("no option has another value that is valid with the others")
    for case, worst in _run(subject, changes):
        if worst.holds:
            yield Measured(case_id(case), worst.error, worst.tolerance)
            continue
        causes = _causes(subject, changes, case)
        failure = f"{causes}: {case_id(case)}: {deviation_text(worst)}"
        yield Measured(case_id(case), worst.error, worst.tolerance, worst.where, failure)


def _other_values(subject: ModelUnderTest) -> dict[str, Any]:
    """Return another value for each option that has one which is valid with the others."""
    found: dict[str, Any] = {}
    config = subject.config()
    for option in options_of(config):
        if option.name in _SIZES:
            continue
        candidates = [*other_values(option, getattr(config, option.name))]
        for value in sorted(candidates, key=lambda one: one[option.name] != _WINDOW):
            if _is_valid(subject, {**found, **value}):
                found |= value
                break
    return found


def _is_valid(subject: ModelUnderTest, changes: Values) -> bool:
    try:
        subject.fresh_model_of(subject.constructed({**subject.underived(), **changes}))
    except Exception:  # transformers or the definition rejects the value
        return False
    return True


def _run(
    subject: ModelUnderTest, changes: Mapping[str, Any], only: Case | None = None
) -> Iterator[tuple[Case, Measured]]:
    """Yield each usual call of a model with other options, or one call, and its largest deviation."""
    with _variant(subject, changes) as variant:
        agreement = Agreement(variant)
        for case in usual_cases(agreement.levels, agreement.rules) if only is None else (only,):
            yield case, max(agreement.run(case), key=excess)


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


def _causes(subject: ModelUnderTest, changes: Mapping[str, Any], case: Case) -> str:
    """Return the options whose other value alone makes a call fail; all options if none does alone."""
    alone = [
        f"{name}={value}"
        for name, value in changes.items()
        if _is_valid(subject, {name: value}) and not all(worst.holds for _, worst in _run(subject, {name: value}, case))
    ]
    return ", ".join(alone) or "these options together: " + ", ".join(f"{n}={v}" for n, v in changes.items())
