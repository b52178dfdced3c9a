"""Tables at every width: no line is wider than the terminal, and no number or URL is split."""

from __future__ import annotations

import io
import re
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.cells import cell_len

from .conftest import LLAMA
from .test_output import on_a_terminal

NUMBER = re.compile(r"(?<![\w.,…-])\d[\d.,]*\d(?![\w…])")
CONTROL = re.compile(r"\x1b\]8;[^\x1b]*\x1b\\|\x1b\[[0-9;?]*[A-Za-z]")
SLOW = [
    ("plugins",),
    ("dataset", "ls"),
    (*LLAMA, "show", "--init"),
    (*LLAMA, "verify", "--list"),
    (*LLAMA, "estimate"),
    ("model", "compare", "llama/4M", "single_head/4M", "mistral/4M"),
]


@pytest.mark.regression("P9")
@pytest.mark.parametrize("width", [60, 80])
def test_ls_splits_no_number(width: int) -> None:
    check_widths(("ls",), width)


@pytest.mark.few(0, slow=2)
@pytest.mark.parametrize("arguments", SLOW, ids=" ".join)
def test_no_command_splits_a_number(arguments: tuple[str, ...]) -> None:
    check_widths(arguments, 40)


def check_widths(arguments: tuple[str, ...], *widths: int) -> None:
    """Compare the tables of a command at these widths with its tables at unlimited width."""
    whole = set(NUMBER.findall(CONTROL.sub("", on_a_terminal(*arguments, COLUMNS="250"))))
    for width in widths:
        check_width(arguments, width, whole)


def check_width(arguments: tuple[str, ...], width: int, whole: set[str]) -> None:
    drawn = CONTROL.sub("", on_a_terminal(*arguments, COLUMNS=str(width)))
    assert max(map(cell_len, drawn.splitlines())) <= width
    assert set(NUMBER.findall(drawn)) <= whole


WORDS = st.one_of(
    st.integers(0, 10**12).map("{:,}".format),
    st.floats(0, 1e6).map("{:.4f}".format),
    st.from_regex(r"\A[a-z_]{1,30}\Z"),
    st.just("https://example.org/a/long/address/of/a/page"),
)


@st.composite
def tables(draw: st.DrawFn) -> tuple[list[list[str]], list[int]]:
    count = draw(st.integers(1, 6))
    right = [n for n in range(1, count) if draw(st.booleans())]
    number = st.integers(0, 10**9).map("{:,}".format)
    text = st.lists(WORDS, min_size=1, max_size=4).map(" ".join)
    row = st.tuples(st.from_regex(r"\A[a-z]{1,20}\Z"), *(number if n in right else text for n in range(1, count)))
    return [list(cells) for cells in draw(st.lists(row, min_size=1, max_size=5))], right


def drawn(rows: list[list[str]], right: list[int], width: int | None, *, dense: bool) -> str:
    """Return a table on a terminal of this width, or in a pipe."""
    from forgather_cli.render import console
    from forgather_cli.tables import grid

    class Stream(io.StringIO):
        def isatty(self) -> bool:
            return width is not None

    before, sys.stdout = sys.stdout, Stream()
    try:
        on = console()
        if width is not None:
            on.width = width
        on.print(
            grid("A title", [f"c{n}" for n in range(len(rows[0]))], rows, right=right, dense=dense), crop=on.fixed_width
        )
        return CONTROL.sub("", sys.stdout.getvalue())
    finally:
        sys.stdout = before


@given(tables(), st.integers(40, 120), st.booleans())
@settings(max_examples=60, deadline=None)
def test_a_table_fits_and_its_numbers_are_whole(
    table: tuple[list[list[str]], list[int]], width: int, dense: bool
) -> None:
    rows, right = table
    text = drawn(rows, right, width, dense=dense)
    assert max(map(cell_len, text.splitlines())) <= width
    known = {word for row in rows for cell in row for word in cell.split()}
    assert set(NUMBER.findall(text)) <= known
    assert all(row[0] in text for row in rows)


@given(tables(), st.booleans())
@settings(max_examples=30, deadline=None)
def test_a_pipe_gets_every_column(table: tuple[list[list[str]], list[int]], dense: bool) -> None:
    rows, right = table
    text = drawn(rows, right, None, dense=dense)
    assert "not shown" not in text
    assert all(row[n] in text for row in rows for n in right)
