"""Mistakes in copies of transformers' models, by an author who saw neither the checks nor their documentation."""

from __future__ import annotations

import pytest

from .copies import SETS, Task, mistakes, new_failures, run_task

# Found by comparison with the original class only: what the model is; and by the other checks only.
BY_COMPARISON = ("exact-gelu-instead-of-tanh", "rotate-half-as-in-llama", "lm-head-made-after-post-init")
BY_OTHERS = {
    "window-short-by-one-in-decoding": "kv-cache",
    "labels-changed-in-place": "gradients",
    "cache-made-without-config": "cache-size",
}


# Of the fifth set; missed at first.
SINCE_THEN = {
    "layer-kwargs-dropped": "attention-backends",
    "router-logits-are-probabilities": "padding",
    "experts-from-one-fixed-seed": "same-seed",
    "norms-in-a-lambda": "state-dict",
    "norm-statistic-without-gradient": "gradients",
    "keys-copied-without-gradient": "gradients",
    "padding-index-defaults-to-zero": "gradients",
    "only-last-token-after-a-filled-cache": "generation",
    "pad-labels-dropped-from-loss": "loss",
}


@pytest.mark.parametrize("name", SETS)
def test_a_set_has_forty_mistakes_in_eight_models(name: str) -> None:
    entries = mistakes(name)
    assert len({one["name"] for one in entries}) == len(entries) == 40
    assert len({one["model"] for one in entries}) == 8
    assert {one["kind"] for one in entries} == {"promise", "identity"}


def failures_of(name: str, *, against: bool) -> dict[str, list[str]]:
    entry = next(one for one in mistakes("fourth") if one["name"] == name)
    edits = tuple((old, new) for old, new in entry["edits"])
    original, planted = (
        run_task(Task(name, entry["model"], part, entry["values"], quick=True, against=against)) for part in ((), edits)
    )
    assert not original.failures
    return new_failures(planted, original)


@pytest.mark.slow
@pytest.mark.parametrize("name", BY_COMPARISON)
def test_mistakes_in_what_a_model_is_need_another_implementation(name: str) -> None:
    assert failures_of(name, against=True)


@pytest.mark.slow
@pytest.mark.parametrize("name", BY_OTHERS)
def test_mistakes_that_break_a_promise_need_none(name: str) -> None:
    assert BY_OTHERS[name] in failures_of(name, against=False)


@pytest.mark.few(2)
@pytest.mark.parametrize("name", SINCE_THEN)
def test_promises_that_were_not_checked_at_first(name: str) -> None:
    entry = next(one for one in mistakes("fifth") if one["name"] == name)
    edits = tuple((old, new) for old, new in entry["edits"])
    checks = (SINCE_THEN[name],)
    original, planted = (
        run_task(Task(name, entry["model"], part, entry["values"], quick=True, checks=checks)) for part in ((), edits)
    )
    assert planted.failures.keys() == set(checks)
    assert not original.failures
