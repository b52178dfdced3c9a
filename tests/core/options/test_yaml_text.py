"""YAML: YAML 1.2 numbers, duplicate keys, positions."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from forgather_core.options.yaml_text import YamlError, parse_yaml


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
        ("a: &x [*x]\n", "refers to itself", 1),
        ("a: 1\n---\nb: 2\n", "another document", 2),
        ("a: \x00\n", "unacceptable character", 1),
        ("[" * 10_000, "nested too deeply", 1),
        ("a: 1\nb: " + "[" * 60 + "]" * 60, "nested too deeply", 2),
        (
            "a0: &a0 [x]\n" + "".join(f"a{n + 1}: &a{n + 1} [{','.join([f'*a{n}'] * 9)}]\n" for n in range(9)),
            "too many values: the maximum is 100,000",
            1,
        ),
        ("# " + "x" * 500_000, "too long", 1),
        ("a: " + "1" * 8_001, "number of 8,001 characters", 1),
        ("a: 1\nb: !!int '1:30'\n", "expected an integer, got '1:30'", 2),
        ("a: 1\nb: !!set {c}\n", "could not determine a constructor", 2),
        ('a: 1\nb: "\\ud800"\n', "an unpaired surrogate", 2),
        ('a: 1\n"\\udc00": 1\n', "an unpaired surrogate", 2),
    ],
)
def test_errors_have_a_line(text: str, problem: str, line: int) -> None:
    with pytest.raises(YamlError) as error:
        parse_yaml(text)
    assert problem in error.value.problem
    assert error.value.line == line


def test_empty_text_is_null() -> None:
    assert parse_yaml("").value is None
    assert parse_yaml("# only a comment\n").value is None


@pytest.mark.regression("P12")
@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("0100", 100), ("-007", -7), ("+12", 12), ("1_000", 1000), ("0o100", 64), ("0x1F", 31), ("1:30", "1:30"),
        ("1:30.5", "1:30.5"), ("0b11", "0b11"), ("2026-01-01", "2026-01-01"), ("=", "="), ("1_", "1_"), ("1.10", 1.1),
    ],
)  # fmt: skip
def test_numbers_are_those_of_yaml_1_2(text: str, value: object) -> None:
    assert parse_yaml(f"x: {text}").value == {"x": value}
    assert parse_yaml(f"[{text}]").value == [value]


@given(st.integers(), st.integers(min_value=0, max_value=5))
def test_leading_zeros_change_no_number(number: int, zeros: int) -> None:
    sign, digits = ("-" if number < 0 else ""), str(abs(number))
    assert parse_yaml(f"x: {sign}{'0' * zeros}{digits}").value == {"x": number}


@given(
    st.one_of(
        st.from_regex(r"\A[0-9][0-9._:eE+_-]{0,12}\Z"),
        st.sampled_from(["no", "yes", "true", "on", "1.10", "007", "1e3", "0x1F", "0o17", "1:30", ".inf"]),
    ).filter(lambda text: not text.endswith(":"))
)
def test_the_source_text_of_a_scalar_is_kept(text: str) -> None:
    document = parse_yaml(f"a: {text}\nb: [{text}]\nc: {{{text}: 1}}\n")
    assert document.written("a") == document.written("b", 0) == text
    assert list(document.value["c"]) == [text]
    assert document.written("b") is document.written("b", 1) is document.written("d") is None
    assert parse_yaml("a: null").written("a") is None
