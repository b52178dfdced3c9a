"""JSON of unknown origin: small enough, no name twice, no nesting that exhausts the stack."""

from __future__ import annotations

import json
from typing import Any

from .wording import shown

LIMIT = 100_000_000  # bytes; the safetensors format has the same bound for its header


def parse_object(data: bytes, brackets: int) -> dict[str, Any]:
    """The JSON object in `data`.

    Args:
        data: The text.
        brackets: How many objects and lists there may be: each takes far more memory than it has text.

    Raises:
        ValueError: It is none, or a name occurs twice in one object, or it is nested without end. The text is a reason.
    """
    if len(data) > LIMIT:
        raise ValueError(f"{len(data):,} bytes of JSON are more than the {LIMIT:,} allowed")
    if data.count(b"[") + data.count(b"{") > brackets:
        raise ValueError("it has more lists and objects than it can have use for")
    try:
        content = json.loads(data.decode("utf-8"), object_pairs_hook=_once, parse_constant=_refuse_constant)
    except RecursionError:
        raise ValueError("its JSON is nested too deeply") from None
    except UnicodeDecodeError:
        raise ValueError("it is not UTF-8") from None
    except json.JSONDecodeError as error:
        raise ValueError(f"it is not JSON ({error.msg} at byte {error.pos})") from None
    if not isinstance(content, dict):
        raise ValueError("it is not a JSON object")  # noqa: TRY004 - the content is wrong, not a type of the program
    return content


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        seen: set[str] = set()
        twice = next(name for name, _ in pairs if name in seen or seen.add(name))  # type: ignore[func-returns-value]
        raise ValueError(f"'{shown(twice)}' occurs twice")
    return found


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")
