"""Option specs: declaration and conversion."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from forgather_core import option
from forgather_core.errors import ConfigurationError, DefinitionError
from forgather_core.options.spec import did_you_mean, specs_of


@dataclass(kw_only=True)
class Sample:
    width: int = option(4, help="A width", ge=1)
    depth: int | None = option(None, help="A depth", ge=1)
    rate: float = option(0.0, help="A rate", ge=0, lt=1)
    any_rate: float = option(0.0, help="A rate without bounds")
    tied: bool = option(False, help="Tied")
    name: str | None = option(None, help="A name")
    place: Path | None = option(None, help="A place")
    act: Literal["silu", "gelu"] = option("silu", help="Activation")
    rope: dict[str, Any] = option({"rope_type": "default"}, help="RoPE")
    sizes: list[int] = option([1, 2], help="Sizes")
    not_an_option: int = 3


SPECS = {spec.name: spec for spec in specs_of(Sample)}


def test_fields_without_option_are_left_out_and_order_is_kept() -> None:
    assert list(SPECS) == ["width", "depth", "rate", "any_rate", "tied", "name", "place", "act", "rope", "sizes"]
    assert SPECS["width"].flag == "--width"
    assert SPECS["depth"].optional
    assert not SPECS["width"].optional


def test_mutable_defaults_are_fresh_for_every_instance() -> None:
    Sample().rope["rope_theta"] = 1.0
    Sample().sizes.append(3)
    assert Sample().rope == {"rope_type": "default"}
    assert Sample().sizes == [1, 2]


@pytest.mark.parametrize(
    ("name", "given_", "value"),
    [
        ("width", "512", 512),
        ("width", "1e3", 1000),
        ("width", "0x10", 16),
        ("width", 512.0, 512),
        ("depth", "null", None),
        ("depth", None, None),
        ("depth", "None", None),
        ("rate", "1e-5", 1e-5),
        ("rate", 0, 0.0),
        ("tied", "yes", True),
        ("tied", "off", False),
        ("tied", False, False),
        ("name", 7, "7"),
        ("place", "a/b", Path("a/b")),
        ("act", "gelu", "gelu"),
        ("rope", "{rope_theta: 5e5, n: null}", {"rope_theta": 500000.0, "n": None}),
        ("sizes", "[1, 2]", [1, 2]),
    ],
)
def test_conversion(name: str, given_: Any, value: Any) -> None:
    got = SPECS[name].convert(given_)
    assert got == value
    assert type(got) is type(value)


@pytest.mark.regression("P12")
@pytest.mark.parametrize(
    ("name", "given_", "text"),
    [
        ("width", "1.5", "expected an integer, got '1.5'"),
        ("width", "0", "must be at least 1, got 0"),
        ("width", "null", "expected an integer, got 'null'"),
        ("width", None, "null is not allowed"),
        ("width", True, "expected an integer, got 'True'"),
        ("width", "inf", "expected an integer, got 'inf'"),
        ("depth", "big", "expected an integer or null, got 'big'"),
        ("rate", "1", "must be below 1, got 1.0"),
        ("rate", "nan", "expected a finite number, got 'nan'"),
        ("any_rate", "inf", "expected a finite number, got 'inf'"),
        ("any_rate", float("-inf"), "expected a finite number, got '-inf'"),
        ("any_rate", "1e999", "expected a finite number, got '1e999'"),
        ("any_rate", 10**400, "expected a finite number, got '1000"),
        ("any_rate", True, "expected a number, got 'True'"),
        ("rope", "{a: {b: [1, .inf]}}", "expected finite numbers, got inf"),
        ("sizes", [float("nan")], "expected finite numbers, got nan"),
        ("tied", "maybe", "expected true or false, got 'maybe'"),
        ("tied", 2, "expected true or false, got '2'"),
        ("act", "geul", "must be one of silu, gelu; got 'geul'. Did you mean 'gelu'?"),
        ("rope", "a:1", "expected a YAML mapping"),
        ("rope", "{a: [}", "not valid YAML at column 6"),
        ("sizes", "{a: 1}", "expected a YAML list"),
        ("place", "", "the path is empty"),
    ],
)
def test_errors_give_the_reason(name: str, given_: Any, text: str) -> None:
    with pytest.raises(ConfigurationError) as error:
        SPECS[name].convert(given_)
    assert text in str(error.value)
    assert "\n" not in str(error.value)


@given(st.integers(min_value=1, max_value=10**12))
def test_integers_are_exact_in_every_spelling(number: int) -> None:
    for text in (str(number), hex(number), f" {number} ", number):
        assert SPECS["width"].convert(text) == number


@given(st.text(max_size=30))
def test_any_text_is_converted_or_refused_in_one_line(text: str) -> None:
    for spec in SPECS.values():
        try:
            spec.convert(text)
        except ConfigurationError as error:
            assert str(error)


def test_unsupported_declarations_are_refused() -> None:
    @dataclass(kw_only=True)
    class Two:
        both: int | str = option(1, help="?")

    @dataclass(kw_only=True)
    class NoDefault:
        wanted: int = option(help="?")

    for cls, text in ((Two, "Two.both"), (NoDefault, "must have a default"), (int, "must be a dataclass")):
        with pytest.raises(DefinitionError, match=text):
            specs_of(cls)


def test_did_you_mean() -> None:
    assert did_you_mean("hiden_size", ["hidden_size"]) == "Did you mean 'hidden_size'?"
    assert did_you_mean("4m", ["4M", "30M"]) == "Did you mean '4M'?"
    assert did_you_mean("zzz", ["hidden_size"]) is None
    flags = ["--list", "--alibi-slopes", "--hidden-size"]
    assert did_you_mean("--alibi-slope", flags, "{}") == "Did you mean --alibi-slopes?"
    assert did_you_mean("--alibi", flags, "{}") == "Did you mean --alibi-slopes?"  # not --list: dashes do not count
