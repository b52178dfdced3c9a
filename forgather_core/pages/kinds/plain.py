"""The page of a report of unknown kind: its values, tables and nested groups."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..content import Content
from ..html import Html, brief, card, facts, joined, label, sentences, tag
from ..tables import table

_DEEPEST = 4  # groups within groups
_MOST_COLUMNS = 12
_MOST_GROUPS = 100


def anything(kind: str, report: Mapping[str, Any]) -> Content:
    """Return the content of a page that shows plain data."""
    single = {name: value for name, value in report.items() if not _nested(value)}
    groups = [card(label(name), _shown(value, 1)) for name, value in report.items() if _nested(value)]
    title = str(report.get("name") or report.get("model_name") or kind or "Report")
    notes = report.get("notes")
    return Content(
        kind=label(kind).capitalize() or "Report",
        title=title,
        blocks=[*([card("Values", facts(single))] if single else []), *groups[:_MOST_GROUPS]],
        notes=[str(note) for note in notes] if isinstance(notes, (list, tuple)) and not notes else (),
    )


def _nested(value: Any) -> bool:
    return isinstance(value, (Mapping, list, tuple)) and len(value) > 0


def _shown(value: Any, depth: int) -> Html:
    if isinstance(value, Mapping):
        return _group(value, depth)
    if all(isinstance(item, Mapping) for item in value):
        return _rows(value)
    return sentences(value)


def _group(value: Mapping[str, Any], depth: int) -> Html:
    if depth >= _DEEPEST:
        return facts(value)
    single = {name: item for name, item in value.items() if not _nested(item)}
    inner = [(name, item) for name, item in value.items() if _nested(item)][:_MOST_GROUPS]
    parts = [tag("div", tag("h3", brief(label(name))), _shown(item, depth + 1)) for name, item in inner]
    return joined([*([facts(single)] if single else []), *parts])


def _rows(rows: Sequence[Mapping[str, Any]]) -> Html:
    names = list(dict.fromkeys(name for row in rows for name in row))[:_MOST_COLUMNS]
    right = [number for number, name in enumerate(names) if all(_is_number(row.get(name)) for row in rows)]
    cells = [[_cell(row.get(name)) for name in names] for row in rows]
    return table([label(name) for name in names], cells, right=right) if names else Html()


def _cell(value: Any) -> Any:
    return f"{value:,}" if _is_number(value) and isinstance(value, int) else "" if value is None else value


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
