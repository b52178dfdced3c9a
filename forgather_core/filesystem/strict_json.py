"""Parse untrusted JSON strictly: limits on size and nesting, no duplicate keys in an object, no NaN."""

from __future__ import annotations

from codecs import BOM_UTF8
from pathlib import Path
from typing import Any

from .disk import read_regular
from .printable import printable, shortened

LIMIT = 100_000_000  # bytes; the safetensors format has the same limit for its header
DEPTH = 100  # levels of nested objects and lists
VALUES = 1_500_000  # each takes up to 300 bytes of memory

CONFIG_BYTES = 16_000_000
CONFIG_BRACKETS = 400_000
CONFIG_VALUES = 1_000_000
TOKENIZER_BYTES = 64_000_000
TOKENIZER_BRACKETS = 2_000_000  # each merge of two tokens is a list
TOKENIZER_VALUES = 4_000_000


def parse_object(
    data: bytes, brackets: int, *, values: int = VALUES, infinite: bool = False, depth: int | None = None
) -> dict[str, Any]:
    """Parse the JSON object in `data`.

    Args:
        data: The text.
        brackets: Maximum number of objects and lists, which take far more memory than their text.
        values: Maximum number of values.
        infinite: Accept `Infinity` and `-Infinity`, which transformers 4 writes into some configurations.
        depth: Maximum depth of nested objects and lists; None is limited only by Python's parser.

    Raises:
        ValueError: The text is not a JSON object, exceeds a limit, or has a duplicate key in an object. The message
            gives the reason.
    """
    import json  # imported here because help pages do not need it

    if len(data) > LIMIT:
        raise ValueError(f"its {len(data):,} bytes of JSON exceed the limit of {LIMIT:,}")
    if data.count(b"[") + data.count(b"{") > brackets:
        raise ValueError(f"it has more than the supported {brackets:,} lists and objects")
    if data.count(b",") > values:
        raise ValueError(f"it has more than the supported {values:,} values")
    try:
        content = json.loads(
            data.decode("utf-8"),
            object_pairs_hook=_unique_keys,
            parse_constant=_only_infinity if infinite else _refuse_constant,
        )
    except RecursionError:
        raise ValueError("its JSON is nested too deeply") from None
    except UnicodeDecodeError:
        raise ValueError("it is not UTF-8") from None
    except json.JSONDecodeError as error:
        raise ValueError(f"it is not JSON ({error.msg} at byte {error.pos})") from None
    if not isinstance(content, dict):
        raise ValueError("it is not a JSON object")  # noqa: TRY004 - the content is wrong, not a Python type
    if depth is not None:
        check_depth(content, depth)
    return content


def check_depth(value: Any, depth: int = DEPTH) -> None:
    """Check the depth of nested objects and lists.

    Raises:
        ValueError: They are nested more than `depth` levels deep. The message gives the reason.
    """
    level = [value]
    for _ in range(depth + 1):
        level = [
            item
            for outer in level
            for item in (outer.values() if isinstance(outer, dict) else outer)
            if isinstance(item, (dict, list))
        ]
        if not level:
            return
    raise ValueError(f"its JSON is nested too deeply (more than {depth} levels)")


def read_object(file: Path) -> dict[str, Any]:
    """Read a JSON file of a model directory, such as config.json.

    Raises:
        OSError: The file is missing, not a regular file, too large, or cannot be read.
        ValueError: The content is not a JSON object, or exceeds the limits. The message gives the reason.
    """
    return parse_file(file)[1]


def parse_file(file: Path) -> tuple[bytes, dict[str, Any]]:
    """Return the bytes of a JSON file of a model directory, without a byte order mark, and its parsed content.

    Raises:
        OSError: The file is missing, not a regular file, too large, or cannot be read.
        ValueError: The content is not a JSON object, or exceeds the limits. The message gives the reason.
    """
    large = is_tokenizer(file.name)
    data = read_regular(file, TOKENIZER_BYTES if large else CONFIG_BYTES).removeprefix(BOM_UTF8)
    content = parse_object(
        data,
        TOKENIZER_BRACKETS if large else CONFIG_BRACKETS,
        values=TOKENIZER_VALUES if large else CONFIG_VALUES,
        infinite=True,
        depth=DEPTH,
    )
    return data, content


def is_tokenizer(name: str) -> bool:
    """Return whether a JSON file of this name contains a vocabulary, which is larger than a configuration."""
    return name in {"tokenizer.json", "vocab.json"}


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        seen: set[str] = set()
        twice = next(name for name, _ in pairs if name in seen or seen.add(name))  # type: ignore[func-returns-value]
        raise ValueError(f"the key '{printable(shortened(twice, 120))}' occurs twice")
    return found


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is not valid JSON")


def _only_infinity(name: str) -> float:
    return float(name) if name != "NaN" else _refuse_constant(name)
