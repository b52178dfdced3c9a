"""JSON of unknown origin: what Python's parser accepts and a model directory must not contain is refused."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from forgather_core.filesystem import strict_json
from forgather_core.filesystem.strict_json import check_depth, parse_file, parse_object, read_object

SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text()
VALUES = st.recursive(SCALARS, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=6)


@given(st.dictionaries(st.text(), VALUES), st.booleans())
def test_every_object_is_parsed_like_json(content: dict[str, Any], ascii_only: bool) -> None:
    data = json.dumps(content, ensure_ascii=ascii_only).encode()
    assert parse_object(data, 10_000) == content


REFUSED = {
    "not JSON": (b'{"a": x}', r"it is not JSON \(.* at byte 6\)"),
    "empty": (b"", "it is not JSON"),
    "a list": (b"[1]", "it is not a JSON object"),
    "null": (b"null", "it is not a JSON object"),
    "another encoding": ('{"a": "é"}'.encode("latin-1"), "it is not UTF-8"),
    "a name twice": (b'{"a": 1, "b": 2, "a": 1}', "'a' occurs twice"),
    "a name twice, nested": (b'{"a": [{"b": {"c": 1, "c": 2}}]}', "'c' occurs twice"),
    "a name twice, escaped": (b'{"a": 1, "\\u0061": 2}', "'a' occurs twice"),
    "a name with a control character": (b'{"\\u001b": 1, "\\u001b": 2}', r"'\\x1b' occurs twice"),
    "NaN": (b'{"a": NaN}', "NaN is not valid JSON"),
    "infinity": (b'{"a": -Infinity}', "-Infinity is not valid JSON"),
    "deeper than Python parses": (b'{"a":' + 200_000 * b"[" + 200_000 * b"]" + b"}", "nested too deeply"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refusals_have_a_reason(case: str) -> None:
    data, reason = REFUSED[case]
    with pytest.raises(ValueError, match=reason):
        parse_object(data, 1_000_000)


def test_infinity_is_accepted_on_request_and_nan_never() -> None:
    assert parse_object(b'{"a": [Infinity, -Infinity]}', 9, infinite=True) == {"a": [math.inf, -math.inf]}
    with pytest.raises(ValueError, match="NaN is not valid JSON"):
        parse_object(b'{"a": NaN}', 9, infinite=True)


def test_limits_count_brackets_values_and_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    data = b'{"a": [1, 2, {"b": 3}]}'
    assert parse_object(data, 3, values=2)
    with pytest.raises(ValueError, match=r"more than the supported \d lists and objects"):
        parse_object(data, 2, values=2)
    with pytest.raises(ValueError, match="more than the supported 1 values"):
        parse_object(data, 3, values=1)
    monkeypatch.setattr(strict_json, "LIMIT", len(data))
    assert parse_object(data, 3)
    with pytest.raises(ValueError, match=f"its {len(data) + 1} bytes of JSON exceed the limit of {len(data)}"):
        parse_object(data + b" ", 3)


@given(st.integers(0, 12), st.integers(0, 12), st.booleans())
def test_depth_counts_levels_below_the_object(levels: int, limit: int, lists: bool) -> None:
    inner: Any = 1
    for _ in range(levels):
        inner = [0, inner] if lists else {"b": inner, "c": 0}
    if levels <= limit:
        check_depth({"a": inner}, limit)
        return
    with pytest.raises(ValueError, match=f"more than {limit} levels"):
        check_depth({"a": inner}, limit)


@pytest.mark.parametrize("levels", [strict_json.DEPTH, strict_json.DEPTH + 1])
def test_files_have_a_depth_limit(tmp_path: Path, levels: int) -> None:
    file = tmp_path / "config.json"
    file.write_text('{"a": ' + levels * "[" + levels * "]" + "}")
    if levels == strict_json.DEPTH:
        assert list(read_object(file)) == ["a"]
        return
    with pytest.raises(ValueError, match="nested too deeply"):
        read_object(file)


def test_a_byte_order_mark_is_not_content(tmp_path: Path) -> None:
    file = tmp_path / "config.json"
    file.write_bytes(b'\xef\xbb\xbf{"a": Infinity}')
    assert parse_file(file) == (b'{"a": Infinity}', {"a": math.inf})


@pytest.mark.parametrize(
    ("name", "large"), [("tokenizer.json", True), ("vocab.json", True), ("config.json", False), ("x.json", False)]
)
def test_files_with_a_vocabulary_may_be_larger(
    tmp_path: Path, name: str, large: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(strict_json, "CONFIG_BRACKETS", 9)
    content: dict[str, Any] = {"merges": [[]] * 9}
    (tmp_path / name).write_text(json.dumps(content))
    if large:
        assert read_object(tmp_path / name) == content
        return
    with pytest.raises(ValueError, match=r"more than the supported \d lists and objects"):
        read_object(tmp_path / name)


def test_a_missing_file_is_an_os_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        read_object(tmp_path / "config.json")
