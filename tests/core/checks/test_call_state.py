"""call-state finds what a call leaves behind, and passes correct models."""

from __future__ import annotations

import random
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
from torch import nn

from forgather_core.checks.call_state import call_state
from forgather_core.checks.shared.model_under_test import ModelUnderTest
from forgather_core.checks.try_check import PASSED, try_check
from forgather_core.commands.construct import construct
from forgather_core.definitions.check import failure_text
from tests.support.settings import Resolve, small

from . import planted
from .planted import changed_models

__all__ = ["small"]

When = Callable[[Any, dict[str, Any]], object]


@pytest.fixture
def subject(small: Resolve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModelUnderTest:
    monkeypatch.setattr(
        sys.modules[call_state.run.__module__], "forward_implementations", lambda _: ["sdpa"]
    )  # the fastest
    resolved = small(output_dir=tmp_path / "model")
    (tmp_path / "work").mkdir()
    return ModelUnderTest(construct(resolved).directory.path, tmp_path / "work", resolved=resolved)


@pytest.fixture(autouse=True)
def _settings() -> Iterator[None]:
    """Restore the settings that mistakes change."""
    threads, precision = torch.get_num_threads(), torch.get_float32_matmul_precision()
    yield
    torch.set_grad_enabled(True)
    torch.use_deterministic_algorithms(False)
    torch.set_num_threads(threads)
    torch.set_float32_matmul_precision(precision)


def failures(subject: ModelUnderTest, before: When, after: When | None = None) -> list[str]:
    """Return the failures of a model that does something before each call, and after it."""

    def change(module: Any, _: Any, given: dict[str, Any]) -> None:
        before(module, given | {"input_ids": _[0]} if _ else given)

    def plant(model: Any) -> None:
        model.register_forward_pre_hook(change, with_kwargs=True)
        if after is not None:
            model.register_forward_hook(lambda module, _, outputs: after(module, outputs))

    return planted.failures(try_check(call_state, changed_models(subject, "randomized_model", plant)))


def test_a_correct_model_passes(subject: ModelUnderTest) -> None:
    row = try_check(call_state, subject)
    assert row["result"] == PASSED, [row["reason"], *(one for one in row["measured"] if not one["holds"])]
    assert len(row["measured"]) == 36


@pytest.mark.slow
def test_all_implementations_of_a_correct_model_pass(subject: ModelUnderTest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    row = try_check(call_state, subject)
    assert row["result"] == PASSED, [row["reason"], *(one for one in row["measured"] if not one["holds"])]
    assert any(one["what"].startswith("flex_attention, bfloat16 autocast") for one in row["measured"])


def clear_mask(_: Any, given: dict[str, Any]) -> None:
    if given.get("attention_mask") is not None:
        given["attention_mask"].fill_(1)


def ignore_labels(_: Any, given: dict[str, Any]) -> None:
    if given.get("labels") is not None:
        given["labels"][:, :2] = -100


def scale_embeddings(_: Any, given: dict[str, Any]) -> None:
    if "inputs_embeds" in given:
        given["inputs_embeds"].mul_(2)


def count_calls(model: Any, _: dict[str, Any]) -> None:
    model.config.calls = getattr(model.config, "calls", 0) + 1


def add_module(model: Any, _: dict[str, Any]) -> None:
    model.extra = nn.Identity()


def change_weight(model: Any, _: dict[str, Any]) -> None:
    with torch.no_grad():
        model.lm_head.weight.mul_(1.001)


def replace_buffer(model: Any, _: dict[str, Any]) -> None:
    model.model.rotary_emb.inv_freq = model.model.rotary_emb.inv_freq.clone()


def draw_with_dropout(model: Any, _: dict[str, Any]) -> None:
    if model.config.attention_dropout:
        torch.rand(1)


def test_changes_of_the_model_and_the_arguments_are_named(subject: ModelUnderTest) -> None:
    def mistakes(*given: Any) -> None:
        for mistake in (clear_mask, ignore_labels, scale_embeddings, count_calls, add_module, change_weight):
            mistake(*given)
        replace_buffer(*given)
        draw_with_dropout(*given)

    texts = failures(subject, mistakes)
    for words in (
        "sdpa, evaluation with input_ids changes the caller's attention_mask, labels",
        "sdpa, training with inputs_embeds changes the caller's attention_mask, inputs_embeds, labels",
        "sdpa, a plain call: the call changes the configuration: calls from",
        "changes the modules extra",
        "changes the values of lm_head.weight",
        "sdpa, a plain call changes the logits of the next call by",
        "replaces or freezes model.rotary_emb.inv_freq",
        "sdpa, evaluation of a model with dropout: the call changes torch's random generator",
    ):
        assert any(words in text for text in texts), (words, texts)


def test_changes_of_the_process_are_named(subject: ModelUnderTest) -> None:
    def mistakes(*_: Any) -> None:
        torch.rand(1)
        numpy.random.rand()
        random.random()
        torch.use_deterministic_algorithms(True)
        torch.set_num_threads(torch.get_num_threads() + 1)
        torch.set_float32_matmul_precision("high")
        torch.set_grad_enabled(False)

    first = failures(subject, mistakes)[0]
    assert first.startswith("sdpa, a plain call: the call changes the gradient mode from True to False; ")
    for words in (
        "changes deterministic algorithms from False to True",
        "changes the precision of float32 products from highest to high",
        "changes the number of threads from",
        "changes torch's random generator",
        "changes numpy's random generator",
        "changes Python's random generator",
    ):
        assert words in first


def test_a_state_that_a_longer_text_leaves_is_found(subject: ModelUnderTest) -> None:
    def remember(model: Any, given: dict[str, Any]) -> None:
        if "input_ids" in given:
            model.longest = max(getattr(model, "longest", 0), given["input_ids"].shape[1])

    def scale(model: Any, outputs: Any) -> None:
        outputs.logits = outputs.logits * (1 + (model.longest > 20))

    texts = failures(subject, remember, scale)
    assert any(text.startswith("sdpa, a longer text changes the logits of the next call by") for text in texts), texts
    assert not any("a text of one row" in text and "plain" in text for text in texts)


def test_an_interrupted_call_is_a_call_of_its_own(subject: ModelUnderTest) -> None:
    """Only the calls that end in the last layer leave something behind."""

    def begin(model: Any, _: dict[str, Any]) -> None:
        model.was_interrupted = getattr(model, "is_running", False)
        model.is_running = True
        layer = model.model.layers[-1]
        if not layer._forward_pre_hooks:
            model.is_running = False

    def end(model: Any, outputs: Any) -> None:
        model.is_running = False
        if model.was_interrupted:
            outputs.logits = outputs.logits + 1

    texts = failures(subject, begin, end)
    assert texts and all("an interruption" in text for text in texts), texts


def test_memory_that_grows_with_lengths_is_found_with_its_holder(
    small: Resolve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A cache of cosines and sines by length, in the sources of a directory."""
    monkeypatch.setattr(sys.modules[call_state.run.__module__], "forward_implementations", lambda _: ["sdpa"])
    resolved = small(output_dir=tmp_path / "model")
    directory = construct(resolved).directory.path
    file = directory / "rope.py"
    text = file.read_text()
    old = "        return cos.to(x.dtype), sin.to(x.dtype)"
    assert old in text
    new = "        self.__dict__.setdefault('known', {})[angles.shape[1]] = cos, sin\n"
    file.write_text(text.replace(old, new + old))
    (tmp_path / "work").mkdir()
    row = try_check(call_state, ModelUnderTest(directory, tmp_path / "work", resolved=resolved))
    texts = [failure_text(one) for one in row["measured"] if not one["holds"]]
    assert any(
        text.startswith("sdpa, evaluation, 6 calls of other lengths: ")
        and "bytes of tensors remain after the outputs are deleted" in text
        and text.endswith("held by model.rotary_emb.known")
        for text in texts
    ), texts


@pytest.mark.slow
def test_a_table_that_grows_to_the_longest_text_is_no_leak(subject: ModelUnderTest) -> None:
    def extend(model: Any, _: Any) -> None:
        length = 0 if not hasattr(model, "table") else len(model.table)
        if length < 60:
            model.table = torch.zeros(60)

    changed_models(subject, "randomized_model", lambda model: model.register_forward_pre_hook(extend))
    assert try_check(call_state, subject)["result"] == PASSED
