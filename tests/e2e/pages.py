"""Parse the code blocks of a Markdown page, which are run in their order.

    bash      each command is run and must exit with 0
    console   commands, each after `$ ` and followed by its output; `...` stands for omitted lines, and numbers may
              differ, except those of `verify`
    python    run after the Python blocks before it
    diff      hunks, separated by lines `@@`, applied to the file that the comment before the block names

Blocks of a language in LISTINGS are shown and not run, as are Sphinx's directives ({toctree}). There are no others.
A comment on the line before a block is a directive:

    <!-- file: PATH -->   the block is the content of this file
    <!-- edit: PATH -->   the block is a diff of this file
    <!-- try: PATH -->    the same, reverted at the next `try`, heading or bold paragraph
    <!-- not run: WHY --> the block is skipped, like the one marked `ci: test`
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

RUN = frozenset({"bash", "console", "python", "diff"})
LISTINGS = frozenset({"json", "mermaid", "text", "toml", "yaml"})
# Lines of `verify`: a failed case, a row of the table, the counts.
_MEASURED = re.compile(r": off by |^\| [a-z-]+ +\| (passed|failed|skipped) |^\d+ passed, \d+ failed, ")
_INSTALLED = ("pip install .", "pip install pytest")  # where pages are run; `.ci/run` runs README's installation


@dataclass(frozen=True)
class Block:
    """A code block.

    Args:
        line: Number of its first line, counted from 1.
        language: The text after the opening fence.
        directive: The comment on the line before it: its name and its value.
        text: The content.
    """

    line: int
    language: str
    directive: tuple[str, str]
    text: str

    @property
    def is_known(self) -> bool:
        """Return whether the block is run, or marked as a listing or a directive of Sphinx."""
        return self.language in RUN | LISTINGS or self.language.startswith("{")

    @property
    def is_run(self) -> bool:
        """Return whether reading the page runs the block."""
        return self.language in RUN and self.directive[0] != "not run"


@dataclass(frozen=True)
class Mark:
    """The end of a `try`: a heading, or a paragraph that begins in bold."""


def parts(page: str) -> Iterator[Block | Mark]:
    """Yield the blocks of a page, and the marks between them."""
    lines = page.splitlines()
    number = 0
    while number < len(lines):
        line = lines[number]
        if line.startswith("```"):
            end = lines.index("```", number + 1)
            found = re.fullmatch(r"<!-- ([a-z ]+): (.*) -->", lines[number - 1])
            directive = (found[1], found[2]) if found else ("", "")
            yield Block(number + 1, line.removeprefix("```"), directive, "\n".join(lines[number + 1 : end]) + "\n")
            number = end
        elif line.startswith(("#", "**")):
            yield Mark()
        number += 1


def commands(block: str) -> Iterator[str]:
    """Yield the commands of a bash block, without comments and installations."""
    for line in block.replace("\\\n", " ").splitlines():
        for command in re.sub(r"\s#\s.*", "", line).split("&&"):
            if command.strip() and not command.strip().startswith(_INSTALLED):
                yield " ".join(command.split())


def sessions(block: str) -> Iterator[tuple[str, str]]:
    """Yield the commands of a console block, each with its output."""
    for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
        command, _, output = part.partition("\n")
        yield command, output


def is_printed(expected: str, output: str) -> bool:
    """Return whether a program printed the output on a page.

    Line breaks and runs of spaces are ignored, since pages and terminals have different widths; any number equals any
    other. `stale_lines` compares numbers.
    """
    found = _plain(output)
    for part in re.split(r"^ *\.\.\.$", expected, flags=re.MULTILINE):
        wanted = _plain(part)
        if wanted not in found:
            return False
        found = found[found.index(wanted) + len(wanted) :]
    return True


def stale_lines(expected: str, output: str) -> list[str]:
    """Return the lines of a page about checks whose counts or errors differ from those of the program.

    Times are ignored, and errors may differ by a tenth; those below 0.001 are rounding errors, which depend on the CPU.
    """
    found = [(_plain(line), _numbers(line)) for line in output.splitlines() if _MEASURED.search(line)]
    return [
        line
        for line in expected.splitlines()
        if _MEASURED.search(line) and not any(_plain(line) == plain and _alike(line, them) for plain, them in found)
    ]


def _numbers(line: str) -> list[float]:
    return [float(number) for number in re.findall(r"\d[\d.]*(?:e[+-]?\d+)?", re.sub(r"\d[\d.]* s\b", "", line))]


def _alike(line: str, numbers: list[float]) -> bool:
    mine, allowed = _numbers(line), 0 if " passed, " in line else 0.1
    return len(mine) == len(numbers) and all(
        abs(one - other) <= allowed * abs(other) or max(one, other) < 1e-3
        for one, other in zip(mine, numbers, strict=True)
    )


def _plain(text: str) -> str:
    return re.sub(r"[\s|+-]*\s[\s|+-]*", " ", re.sub(r"\d[\d.,]*(e[+-]?\d+)?", "0", text)).strip()


def apply(diff: str, file: Path) -> str:
    """Apply the hunks of a diff block to a file, and return the text before."""
    before = text = file.read_text(encoding="utf-8")
    for hunk in re.split(r"^@@.*\n", diff, flags=re.MULTILINE):
        lines = [line or " " for line in hunk.splitlines()]
        old = "".join(line[1:] + "\n" for line in lines if line[0] in " -")
        new = "".join(line[1:] + "\n" for line in lines if line[0] in " +")
        assert text.count(old) == 1, f"{file}: this is there {text.count(old)} times:\n{old}"
        text = text.replace(old, new)
    file.write_text(text, encoding="utf-8")
    return before
