"""YAML: numbers as in YAML 1.2, duplicates refused, places kept."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from forgather_core.yaml_text import YamlError, parse_yaml


def test_values_and_places() -> None:
    text = parse_yaml("a: 1\nb:\n  c: 5e5\n  d: 1e-6\n")
    assert text.value == {"a": 1, "b": {"c": 5e5, "d": 1e-6}}
    assert text.place("b", "d") == (4, 3)
    assert text.place("b", "nope") == (2, 1)
    assert text.place("nope") == (1, 1)


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_every_python_float_is_read_as_itself(number: float) -> None:
    assert math.isclose(parse_yaml(f"x: {number!r}").value["x"], number)


@pytest.mark.parametrize(
    ("text", "problem", "line"),
    [
        ("a: [1\n", "expected", 2),
        ("a: 1\na: 2\n", "duplicate key 'a'", 2),
        ("b:\n  a: 1\n  a: 2\n", "duplicate key 'a'", 3),
        ("? [1, 2]\n: 3\n", "a key must be plain text", 1),
        ("a: !!python/object/apply:os.system ['true']\n", "could not determine a constructor", 1),
        ("a: &x [*x]\n", "contains itself", 1),
        ("a: 1\n---\nb: 2\n", "another document", 2),
        ("a: \x00\n", "unacceptable character", 1),
        ("[" * 10_000, "nested too deeply", 1),
        ("a: 1\nb: " + "[" * 60 + "]" * 60, "nested too deeply", 2),
        (
            "a0: &a0 [x]\n" + "".join(f"a{n + 1}: &a{n + 1} [{','.join([f'*a{n}'] * 9)}]\n" for n in range(9)),
            "more values than a configuration can need",
            1,
        ),
        ("# " + "x" * 500_000, "too long", 1),
        ("a: " + "1:" * 4_000 + "1", "number of 8,001 characters", 1),
    ],
)
def test_errors_say_where(text: str, problem: str, line: int) -> None:
    with pytest.raises(YamlError) as error:
        parse_yaml(text)
    assert problem in error.value.problem
    assert error.value.line == line


def test_empty_text_is_null() -> None:
    assert parse_yaml("").value is None
    assert parse_yaml("# only a comment\n").value is None
