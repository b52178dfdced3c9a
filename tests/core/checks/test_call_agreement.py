"""The check finds mistakes that show in combinations of ways to call a model only, and names the combination."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch

from forgather_core.checks.call_agreement import call_agreement
from forgather_core.checks.covering.agreement import Agreement
from forgather_core.checks.covering.calls import Calls
from forgather_core.checks.covering.factors import PLAIN, case_id, case_of, differing
from forgather_core.checks.covering.failures import excess, failures_of, shrunk
from forgather_core.checks.covering.models import Models
from forgather_core.checks.shared.model_under_test import ModelUnderTest
from forgather_core.checks.shared.scope import Scope
from forgather_core.commands.construct import construct
from forgather_core.definitions.check import Measured
from forgather_core.errors import CheckError
from tests.support.settings import Resolve, small

from .planted import changed_models

__all__ = ["small"]


@pytest.fixture
def subject(small: Resolve, tmp_path: Path) -> ModelUnderTest:
    resolved = small(output_dir=tmp_path / "model")
    made = construct(resolved)
    (tmp_path / "work").mkdir()
    return ModelUnderTest(made.directory.path, tmp_path / "work", resolved=resolved)


def spoil(agreement: Agreement, when: Any) -> None:
    """Make models add 1 to the logits of calls for which `when` returns True."""

    def change(module: Any, arguments: Any, given: dict[str, Any], outputs: Any) -> Any:
        if when(module, given) and not isinstance(outputs, tuple) and outputs.logits is not None:
            outputs.logits = outputs.logits + 1
        return outputs

    changed_models(agreement.subject, "randomized_model", lambda m: m.register_forward_hook(change, with_kwargs=True))
    agreement.models = Models(agreement.subject)


def test_the_plain_call_agrees_with_itself(subject: ModelUnderTest) -> None:
    agreement = Agreement(subject)
    (logits,) = agreement.run(PLAIN)
    assert logits.what == "logits" and logits.error == 0.0


@pytest.mark.parametrize(
    "case",
    [
        "gradients=on",
        "mode=train,gradients=on,checkpointing=non-reentrant,labels=all,loss=chunked",
        "rows=unequal,padding=left,mask=2d,cache=static,chunks=single",
        "attention=sdpa,rows=equal,packing=position-ids,positions=given,cache=dynamic,chunks=uneven,input=embeds",
        "dtype=bfloat16,length=129,outputs=hidden-states",
        "padding=right,mask=4d-bool,outputs=attentions,labels=num-items",
        "return=tuple,logits_to_keep=indices,dtype=float64",
        "rows=unequal,padding=left,mask=2d,positions=given,cache=cropped,chunks=uneven",
        "rows=unequal,padding=right,mask=2d,cache=reordered,chunks=uneven,input=embeds",
        "cache=reset,length=33,rows=equal,chunks=single",
        "cache=config-off,chunks=uneven,mode=train",
        "cache=quantized,chunks=single",
        "mask=dict,packing=position-ids,positions=given,padding=right,rows=equal",
        "labels=all-ignored,gradients=on",
        "labels=special,loss=chunked,mode=train",
        "made=meta,gradients=on",
        "made=from-pretrained,dtype=bfloat16",
        "made=pickled,attention=sdpa",
        "made=after-another,cache=static,chunks=uneven",
        "made=before-another,length=513",
        "made=after-other-dtype,length=257",
        "made=deep-copied,frozen=head,gradients=on",
    ],
)
def test_valid_calls_of_a_right_model_agree(case: str, subject: ModelUnderTest) -> None:
    for deviation in Agreement(subject).run(case_of(case)):
        assert deviation.holds, deviation


def test_a_failing_case_is_reduced_to_the_levels_that_matter(subject: ModelUnderTest) -> None:
    agreement = Agreement(subject)

    def padded_and_cached(_: Any, given: dict[str, Any]) -> bool:
        mask = given.get("attention_mask")
        return given.get("use_cache") is True and mask is not None and bool((mask == 0).any())

    spoil(agreement, padded_and_cached)
    case = case_of("mode=train,rows=unequal,padding=right,mask=2d,cache=dynamic,input=embeds,labels=all")
    assert not all(one.holds for one in agreement.run(case))
    smallest = shrunk(case, lambda one: max(agreement.run(one), key=excess), agreement.base)
    assert case_id(smallest) == "padding=right,mask=2d,cache=dynamic"


def test_an_exception_is_a_finding_of_its_case(subject: ModelUnderTest) -> None:
    agreement = Agreement(subject)

    def fail(_: Any, given: dict[str, Any]) -> bool:
        if "inputs_embeds" in given:
            raise IndexError("no such row")
        return False

    spoil(agreement, fail)
    (found,) = agreement.run(case_of("input=embeds"))
    assert found.what == "raised IndexError: no such row" and not found.holds
    assert all(one.holds for one in agreement.run(PLAIN))


def test_gradients_and_losses_are_compared(subject: ModelUnderTest) -> None:
    agreement = Agreement(subject)
    case = case_of("attention=sdpa,gradients=on,labels=all")
    assert all(one.holds for one in agreement.run(case))
    model = agreement.models.of(case)
    with torch.no_grad():
        model.get_output_embeddings().weight *= 1.1
    failed = {one.what for one in agreement.run(case) if not one.holds}
    assert {"logits", "loss", "gradients"} <= failed


def test_a_crash_is_a_finding_of_its_levels(subject: ModelUnderTest) -> None:
    with Calls(subject) as calls:

        def crash(_: Any, given: dict[str, Any]) -> bool:
            if "inputs_embeds" in given and given.get("attention_mask") is not None:
                os.kill(os.getpid(), signal.SIGSEGV)
            return False

        spoil(calls.agreement, crash)
        cases = [case_of(text) for text in ("input=embeds,rows=equal,mask=2d,labels=all", "rows=equal", "input=embeds")]
        (found,) = calls.failures(cases)
    assert found.text == (
        "wrong with mask=2d + input=embeds, right without either: raised: the process was ended by SIGSEGV; "
        "look at: how the given mask is used; operations between input_ids and embeddings"
    )


def test_failures_are_grouped_by_cause_and_the_worst_is_first(subject: ModelUnderTest) -> None:
    def spoilt(_: Any, given: dict[str, Any]) -> bool:
        if "inputs_embeds" in given:
            raise IndexError("no such row")
        return given.get("attention_mask") is not None

    with Calls(subject) as calls:
        spoil(calls.agreement, spoilt)
        texts = ("mask=2d,rows=equal", "mask=2d,labels=all", "rows=equal,input=embeds", "rows=equal")
        first, second = calls.failures([case_of(text) for text in texts])
    assert (case_id(first.smallest), len(first.cases)) == ("input=embeds", 1)  # an exception is worse than a number
    assert (case_id(second.smallest), len(second.cases)) == ("mask=2d", 2)


def failing(*causes: str) -> Any:
    """Return a function that fails cases which contain the levels of a cause."""

    def worst_of(case: Any) -> Measured:
        found = [cause for cause in causes if differing(case_of(cause)) <= differing(case)]
        return Measured("logits", float(len(found)), 0.5 if found else 1.0)

    return worst_of


def test_a_case_with_two_causes_is_one_of_both() -> None:
    texts = ("mask=2d,rows=equal", "mask=2d,input=embeds,labels=all", "rows=equal")
    found = failures_of([case_of(text) for text in texts], failing("mask=2d", "input=embeds"), PLAIN)
    assert sorted((case_id(one.smallest), len(one.cases)) for one in found) == [("input=embeds", 1), ("mask=2d", 2)]


def test_levels_that_others_require_are_no_cause() -> None:
    (found,) = failures_of([case_of("rows=equal,padding=left,mask=2d,input=embeds")], failing("padding=left"), PLAIN)
    assert found.text.startswith("wrong with padding=left, right without it (mask=2d required): logits off by 1")


def test_levels_of_one_factor_are_one_failure() -> None:
    texts = ("cache=dynamic,chunks=single", "cache=static,chunks=uneven", "rows=equal,cache=static,chunks=uneven")
    (found,) = failures_of([case_of(text) for text in texts], failing("chunks=single", "chunks=uneven"), PLAIN)
    assert found.text.startswith(
        "wrong with chunks=single or uneven, right without it (cache=dynamic or static required): logits off by 1"
    )
    assert "(3 cases)" in found.text and set(found.cases) == {case_id(case_of(text)) for text in texts}


def test_a_call_without_logits_fails(subject: ModelUnderTest) -> None:
    agreement = Agreement(subject)

    def drop(module: Any, arguments: Any, outputs: Any) -> Any:
        return type(outputs)(past_key_values=outputs.past_key_values)

    changed_models(subject, "randomized_model", lambda model: model.register_forward_hook(drop))
    assert [one.what for one in agreement.run(case_of("mode=train")) if not one.holds] == ["no logits"]


def test_the_requested_case_runs_alone(subject: ModelUnderTest) -> None:
    def run(case: str) -> list[Any]:
        subject.scope = Scope(case=case)
        return list(call_agreement.run(subject))

    measured, details = run("cache=static,chunks=uneven")
    assert measured.what == "cache=static,chunks=uneven" and measured.holds
    assert details.content["cases"] == [{"case": "cache=static,chunks=uneven", "holds": True, "cause": None}]
    with pytest.raises(CheckError, match=r"--case: padding=left, mask=none: padding requires a mask"):
        run("padding=left")
    with pytest.raises(CheckError, match=r"padding must be one of none, .*; got 'up': copy the id from a report of"):
        run("padding=up")


@pytest.mark.exhaustive  # test_behaviour.py runs them for some models
def test_all_cases_of_a_definition_agree(subject: ModelUnderTest) -> None:
    """With fewer levels; tools/false_alarms.py runs all, with several seeds."""
    subject.scope = Scope(quick=True)
    *measured, details = call_agreement.run(subject)
    assert len(measured) > 40
    assert all(one.holds for one in measured)
    assert details.content["combinations"] > 1000
    assert len(details.content["cases"]) == len(measured)


@pytest.mark.slow
def test_the_report_names_the_cause_once(subject: ModelUnderTest, monkeypatch: pytest.MonkeyPatch) -> None:
    begin = Agreement.__init__
    varied = ("mode", "rows", "padding", "mask", "input", "labels")  # no other models, and nothing is compiled

    def spoilt(self: Agreement, given: ModelUnderTest) -> None:
        begin(self, given)
        self.levels = {name: levels if name in varied else levels[:1] for name, levels in self.levels.items()}
        spoil(self, lambda module, arguments: module.training and "inputs_embeds" in arguments)

    monkeypatch.setattr(Agreement, "__init__", spoilt)
    subject.scope = Scope(quick=True)
    *measured, details = call_agreement.run(subject)
    failures = [one.failure for one in measured if not one.holds]
    assert len(failures) > 1
    assert failures[0] is not None
    cause = "wrong with mode=train + input=embeds, right without either: logits off by"
    assert failures[0].startswith(cause)
    assert all(one is not None and one.endswith(": same cause as mode=train,input=embeds") for one in failures[1:])
    causes = {case["cause"] for case in details.content["cases"]}
    assert causes == {None, "mode=train,input=embeds"}
