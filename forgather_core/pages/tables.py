"""Tables of pages: headings with their scope, right-aligned numbers, long tables truncated."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from .html import Html, brief, joined, tag

MOST_ROWS = 500
_MOST_TEXT = 150_000  # characters of one table


def table(
    columns: Sequence[object],
    rows: Sequence[Sequence[object]],
    *,
    right: Collection[int] = (),
    code: Collection[int] = (),
    total: bool = False,
    most: int = MOST_ROWS,
    name: str = "table",
) -> Html:
    """Return a table, in a box that scrolls if it is too wide. The first cell of each row is its heading.

    Args:
        columns: The column headings.
        rows: The cells of each row: values of a report, or markup.
        right: Numeric columns, which are right-aligned.
        code: Columns in a monospaced font.
        total: Whether the last row is a total.
        most: Maximum number of rows; a line below the table counts the remaining ones.
        name: The name of the table, for screen readers.
    """
    classes = [
        " ".join(["fg-number"] * (number in right) + ["fg-code"] * (number in code)) or None
        for number in range(len(columns))
    ]
    head = tag(
        "tr",
        *(
            tag("th", brief(column), scope="col", class_="fg-number" if number in right else None)
            for number, column in enumerate(columns)
        ),
    )
    drawn, size = [], 0
    for row in [*rows[: most - 1], rows[-1]] if len(rows) > most and total else rows[:most]:
        first, *others = zip(row, classes, strict=True)
        cells = [tag("th", brief(first[0]), scope="row", class_=first[1])]
        cells += [tag("td", brief(cell), class_=kind) for cell, kind in others]
        drawn.append(tag("tr", *cells, class_="fg-total" if total and row is rows[-1] else None))
        size += len(drawn[-1])
        if size > _MOST_TEXT:
            break
    body = tag("table", tag("thead", head), tag("tbody", *drawn))
    box = tag("div", body, class_="fg-scroll", tabindex="0", role="region", aria_label=name)
    left = len(rows) - len(drawn)
    more = tag("p", f"and {left:,} more rows; --json lists all", class_="fg-more") if left else Html()
    return joined([box, more])
