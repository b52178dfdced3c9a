"""Errors: one sentence made from fields."""

from __future__ import annotations

import errno
import pickle
from typing import Any

import pytest

from forgather_core.errors import CheckpointError, ConfigurationError, UnknownDefinitionError, access_hint

LINE = {"file": "exp.yaml", "line": 3, "column": 14}


@pytest.mark.parametrize(
    ("problem", "fields", "text"),
    [
        ("the working directory has been removed", {}, "the working directory has been removed"),
        ("requires --full", {"option": "--force"}, "--force requires --full"),
        ("must be at least 1, got 0", {"option": "heads", **LINE}, "exp.yaml:3:14: heads must be at least 1, got 0"),
        ("expected an integer", {"option": "seed", "file": "a", "line": 1}, "a:1: seed: expected an integer"),
        ("is a file", {"option": "tokenizer", "file": "a"}, "tokenizer: a is a file"),
        (
            "the model is quantized",
            {"option": "--from-config", "file": "a"},
            "--from-config: a: the model is quantized",
        ),
        ("cannot be read", {"file": "a.bin", "hint": "copy it again"}, "a.bin cannot be read: copy it again"),
        (
            "no such option",
            {"option": "sed", "hint": "Did you mean 'seed'?"},
            "sed: no such option. Did you mean 'seed'?",
        ),
        ("is odd", {"file": "a", "line": 2}, "a:2: is odd"),
    ],
)
def test_sentence_is_made_from_the_fields(problem: str, fields: dict[str, Any], text: str) -> None:
    error = ConfigurationError(problem, **fields)
    assert str(error) == text
    assert error.fields() == dict.fromkeys(("option", "file", "line", "column", "hint")) | {"problem": problem} | fields


def test_caller_adds_a_place() -> None:
    error = UnknownDefinitionError("there is no 'lama'", hint="Did you mean 'llama'?")
    placed = error.at(ConfigurationError, option="extends", **LINE)
    assert type(placed) is ConfigurationError
    assert str(placed) == "exp.yaml:3:14: extends: there is no 'lama'. Did you mean 'llama'?"
    assert type(error.at(option="-t")) is UnknownDefinitionError


def test_a_second_place_keeps_the_first() -> None:
    error = CheckpointError("is not a checkpoint", file="inner.bin", hint="remove it")
    placed = error.at(file="outer", option="--load-from-checkpoint")
    assert str(placed) == "--load-from-checkpoint: outer: inner.bin is not a checkpoint: remove it"
    assert placed.file == "outer"


def test_errors_survive_pickling() -> None:
    error = ConfigurationError("is odd", option="seed", hint="choose another", **LINE)
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is ConfigurationError
    assert str(again) == str(error)
    assert again.fields() == error.fields()


@pytest.mark.parametrize(
    ("error", "hint"),
    [
        (OSError(errno.EACCES, "denied"), "check the path and its permissions"),
        (OSError("no number"), "check the path and its permissions"),
        (OSError(errno.EFBIG, "too large"), "use a smaller file"),
        (OSError(errno.EINVAL, "a FIFO"), "use a regular file"),
        (ValueError("no JSON"), "correct the file"),
    ],
    ids=str,
)
def test_the_hint_is_about_the_reason(error: Exception, hint: str) -> None:
    assert access_hint(error) == hint
