"""Values of reports as text: sizes, counts, times, and plain data."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

_LONGEST = 500  # items of a collection


def bytes_of(count: float) -> str:
    """Format a size as `17.0 MiB`."""
    size = float(count)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(size) < 1024:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} TiB"


def count_of(value: float | None) -> str:
    """Format a number as `9.9 M`."""
    if value is None:
        return "-"
    for unit in ("", " k", " M", " G", " T"):
        if value < 1000:
            return f"{value:.3g}{unit}"
        value /= 1000
    return f"{value:,.0f} P"


def with_noun(count: int, noun: str) -> str:
    """Format a number with a noun in the singular or plural: `1 document`, `2,000 documents`."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def seconds_of(value: float | None) -> str:
    """Format a time as `9.8 ms` or `1.20 s`."""
    if value is None:
        return "-"
    return f"{value:.2f} s" if value >= 1 else f"{value * 1000:.1f} ms"


def duration(seconds: float) -> str:
    """Format a long time as `12 s`, `3 min 20 s` or `2 h 15 min`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600:,} h {whole % 3600 // 60} min"


def share_of(part: float, total: float) -> str:
    """Format a share as `53 %`, small ones as `0.4 %`."""
    if not total:
        return "-"
    percent = 100 * part / total
    if 0 < percent < 0.1:
        return "< 0.1 %"
    return f"{percent:.1f} %" if 0 < percent < 10 else f"{percent:,.0f} %"


def integer_of(value: Any) -> str:
    """Format an integer with thousands separators, and null as a dash."""
    return "-" if value is None else f"{value:,}" if isinstance(value, (int, float)) else str(value)


def small_of(value: Any) -> str:
    """Format an error or a tolerance with two digits."""
    return f"{value:.2g}" if isinstance(value, (int, float)) else str(value)


def shape_of(shape: Sequence[int] | None) -> str:
    """Format a shape as `16 × 8`."""
    return "-" if shape is None else " × ".join(map(str, shape)) or "scalar"


def finite(value: Any) -> float | None:
    """Return a finite number as it is, and None for anything else."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    return float(value) if math.isfinite(value) else None


def text_of(value: Any) -> str:
    """Format a value for display: null, true, {key: value}. Long collections are truncated."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, dict):
        return "{" + _listed((f"{key}: {text_of(item)}" for key, item in value.items()), len(value)) + "}"
    if isinstance(value, (list, tuple)):
        return "[" + _listed(map(text_of, value), len(value)) + "]"
    return str(value)


def _listed(items: Iterator[str], count: int) -> str:
    first = list(islice(items, _LONGEST))
    return ", ".join(first) + (f", and {count - len(first):,} more" if count > len(first) else "")


def by_reason(reasons: Mapping[str, str]) -> list[str]:
    """Return one sentence for each reason: `a, b: the reason`, from names with their reasons."""
    names: dict[str, list[str]] = {}
    for name, reason in reasons.items():
        names.setdefault(reason, []).append(name)
    return [f"{', '.join(found)}: {reason}" for reason, found in names.items()]
