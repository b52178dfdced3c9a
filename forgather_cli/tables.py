"""Tables that fit the terminal and never split a number or a URL."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from itertools import zip_longest
from typing import Any

from rich import box
from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, Group, RenderableType
from rich.table import Table
from rich.text import Text as RichText

from forgather_core.filesystem.printable import printable, shortened
from forgather_core.pages.units import text_of

from .render import MAX_CELL_CHARACTERS, MAX_NOTES, MAX_ROWS, MAX_TABLE_CHARACTERS, Text

_MAX_WORD = 12  # characters: longer words in a narrow column are folded
_NUMBER = re.compile(r"[({\[~<>=+-]*\d[\d.,_:%eE+-]*[a-zA-Z]{0,3}[)}\],;:]*")
_URL = re.compile(r"https?://\S+")
_BAR = frozenset("█#")


def grid(
    title: str,
    columns: Sequence[str],
    rows: Sequence[Sequence[Any]],
    *,
    right: Sequence[int] = (),
    dense: bool = False,
    max_rows: int = MAX_ROWS,
    drop: Sequence[int] | None = None,
) -> RenderableType:
    """Return a table. If it is too wide, text is folded first, then columns are dropped; long tables are cut.

    Args:
        title: The title above the table.
        columns: The column headings.
        rows: The cells of each row, one per column.
        right: Numeric columns, which are right-aligned and never folded.
        dense: Use one space instead of two between columns on a terminal.
        max_rows: Maximum number of rows; a final row counts the remaining ones.
        drop: Columns in the order in which they are dropped on a narrow terminal (default: from last to first).
    """
    cells = [[_cell(cell) for cell in row] for row in rows[:max_rows]]
    drawn = cells[: _count_fitting_rows(cells)]
    if len(drawn) < len(rows):
        drawn.append([Text(f"and {len(rows) - len(drawn):,} more; --json lists all", "dim")])
    order = range(len(columns) - 1, 0, -1) if drop is None else drop
    return _Grid(title, columns, drawn, frozenset(right), dense, order)


class _Grid:
    """A table that chooses columns and widths when rendered, since the width is known only then."""

    def __init__(
        self,
        title: str,
        columns: Sequence[str],
        rows: Sequence[Sequence[RichText]],
        right: frozenset[int],
        dense: bool,
        drop: Sequence[int],
    ) -> None:
        self.title, self.columns, self.rows, self.right, self.drop = title, columns, rows, right, drop
        self.is_terminal = sys.stdout.isatty()
        self.gap = 0 if dense and self.is_terminal else 1
        # The row that counts remaining rows has a single cell.
        self.cells = [[row[n] for row in rows if len(row) > 1] for n in range(len(columns))]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[RenderableType]:
        width, fixed_width = options.max_width, getattr(console, "fixed_width", False)
        shown = list(range(len(self.columns)))
        if not fixed_width:
            required_width = self._overhead(shown) + sum(map(self._min_width, shown))
            console.required_width = max(getattr(console, "required_width", 0), required_width)  # type: ignore[attr-defined]
            width = max(width, required_width)
        dropped = []
        for number in self.drop:
            if self._overhead(shown) + sum(map(self._min_width, shown)) <= width:
                break
            shown.remove(number)
            dropped.append(number)
        if self.title:
            yield Text(self.title, "bold")
        yield self._table(shown, width)
        if hidden := [self.columns[number] for number in sorted(dropped) if self.columns[number]]:
            yield Text(f"not shown at this width: {', '.join(hidden)}", "dim")

    def _table(self, shown: Sequence[int], width: int) -> Table:
        table = Table(
            box=box.SIMPLE_HEAD if self.is_terminal else box.ASCII2,
            show_edge=not self.is_terminal,
            padding=(0, self.gap, 0, 0) if self.is_terminal else (0, 1),
            header_style="dim",
        )
        widths = _allocate_widths(
            [self._full_width(number) for number in shown],
            [self._min_width(number) for number in shown],
            width - self._overhead(shown),
        )
        for number, size in zip(shown, widths, strict=True):
            table.add_column(
                Text(self.columns[number]),
                justify="right" if number in self.right else "left",
                overflow="fold",
                no_wrap=number in self.right,
                width=size,
            )
        for row in self.rows:
            table.add_row(
                *(_truncate_urls(row[n], size) for n, size in zip(shown, widths, strict=True) if n < len(row))
            )
        return table

    def _overhead(self, shown: Sequence[int]) -> int:
        """Return the width of separators and padding."""
        count = len(shown)
        return count - 1 + count * self.gap if self.is_terminal else count + 1 + 2 * count

    def _full_width(self, number: int) -> int:
        """Return the width at which no cell of a column is folded."""
        texts = [self.columns[number], *(cell.plain for cell in self.cells[number])]
        if number == 0:
            texts += [row[0].plain for row in self.rows if len(row) == 1]
        return max(cell_len(line) for text in texts for line in text.split("\n")) or 1

    def _min_width(self, number: int) -> int:
        """Return the minimum width of a column: numbers, names and words of up to 12 characters are not folded."""
        head = max(map(cell_len, self.columns[number].split()), default=1)
        if number in self.right:
            return max(head, self._full_width(number))
        if number == 0:
            return max([head, *(cell_len(cell.plain) for cell in self.cells[0])])
        parts = [
            part for cell in self.cells[number] for part in ([cell.plain] if _is_cut(cell) else cell.plain.split())
        ]
        return max([head, *(cell_len(part) if _is_number(part) else min(cell_len(part), _MAX_WORD) for part in parts)])


def _is_cut(cell: RichText) -> bool:
    """Return whether a cell is cut instead of folded, which applies to links and bars."""
    return str(cell.style).startswith("link ") or (bool(cell.plain) and _BAR.issuperset(cell.plain))


def _truncate_urls(cell: RichText, width: int) -> RichText:
    """Cut the URLs in a cell to the width of its column. On a terminal they stay clickable."""
    if _is_cut(cell):
        cell = cell.copy()
        cell.truncate(width, overflow="crop" if _BAR.issuperset(cell.plain) else "ellipsis")
        return cell
    return _with_links(cell.plain, width) if _URL.search(cell.plain) else cell


def _is_number(word: str) -> bool:
    return _NUMBER.fullmatch(word) is not None


def _allocate_widths(full: Sequence[int], minimum: Sequence[int], room: int) -> list[int]:
    """Return column widths with a sum of at most `room`, shrinking the widest columns first.

    The first column, which contains names, is folded only if the minimum widths do not fit.
    """
    widths = list(full)
    lower = list(minimum)
    while (excess := sum(widths) - room) > 0:
        wide = [n for n, width in enumerate(widths) if width > lower[n]]
        if not wide:
            if lower[0] <= 1:
                break
            lower[0] = 1
            continue
        widest = max(wide, key=widths.__getitem__)
        others = max((widths[n] for n in wide if n != widest), default=0)
        step = min(excess, widths[widest] - max(lower[widest], min(others, widths[widest] - 1)))
        widths[widest] -= step
    return [max(1, width) for width in widths]


def _cell(value: Any) -> RichText:
    return value if isinstance(value, RichText) else Text(shortened(text_of(value), MAX_CELL_CHARACTERS))


def _count_fitting_rows(rows: Sequence[Sequence[RichText]]) -> int:
    """Return the number of rows that fit into `MAX_TABLE_CHARACTERS` characters; columns are as wide as needed."""
    widths: list[int] = []
    for count, row in enumerate(rows):
        lengths = [len(cell.plain) for cell in row]
        widths = [max(pair) for pair in zip_longest(widths, lengths, fillvalue=0)]
        if count and (count + 1) * sum(widths) > MAX_TABLE_CHARACTERS:
            return count
    return len(rows)


def pairs(title: str, values: Mapping[str, Any]) -> Group:
    """Return a title with a list of names and values, without those that are None."""
    known = [(name, value) for name, value in values.items() if value is not None]
    rows = [(shortened(name, 100), shortened(text_of(value), MAX_CELL_CHARACTERS)) for name, value in known[:MAX_NOTES]]
    more = len(known) - len(rows)
    return Group(Text(title, "bold"), _Pairs(rows, more), Text())


class _Pairs:
    """Names and values in two columns. URLs that do not fit are cut and stay clickable on a terminal."""

    def __init__(self, rows: Sequence[tuple[str, str]], more: int) -> None:
        self.rows, self.more = rows, more

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[RenderableType]:
        table = Table.grid(padding=(0, 2, 0, 0))
        names = max((cell_len(name) for name, _ in self.rows), default=0)
        room = options.max_width - names - 2
        table.add_column(style="dim", no_wrap=room >= _MAX_WORD)
        table.add_column(overflow="fold")
        for name, value in self.rows:
            table.add_row(Text(name), _with_links(value, max(_MAX_WORD, room)))
        if self.more:
            table.add_row(Text(f"and {self.more:,} more; --json lists all", "dim"))
        yield table


def _with_links(value: str, room: int) -> Text:
    """Return a text with its URLs cut to `room` characters and clickable."""
    text, at = Text(), 0
    for found in _URL.finditer(value):
        shown = found[0] if len(found[0]) <= room else found[0][: room - 1] + "…"
        text.append(printable(value[at : found.start()], keep="\n"))
        text.append(printable(shown), style=f"link {found[0]}" if found[0].isprintable() else "")
        at = found.end()
    text.append(printable(value[at:], keep="\n"))
    return text
