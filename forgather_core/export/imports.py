"""Import statements of a source file, with the exact bytes of the module name in each."""

from __future__ import annotations

import ast
import codecs
import io
import itertools
import re
import tokenize
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path

from ..errors import ExportError

_LEAVES = (ast.expr_context, ast.operator, ast.cmpop, ast.boolop, ast.unaryop, ast.Constant, ast.Name)

# How transformers finds the helper files of remote code: a regular expression over the raw text, line by line.
LOADER_PATTERNS = (
    re.compile(r"^\s*import\s+\.(\S+)\s*$", re.MULTILINE),
    re.compile(r"^\s*from\s+\.(\S+)\s+import", re.MULTILINE),
)


@dataclass(frozen=True)
class ImportFrom:
    """`from MODULE import NAMES`.

    Args:
        module: The dotted module as written, without leading dots.
        level: The number of leading dots.
        names: The imported names with their aliases.
        line: Line number, from 1.
        start, end: Byte span of the dots and module in the source.
        tried: Whether it stands in a `try`, and so may fail.
    """

    module: str
    level: int
    names: tuple[tuple[str, str | None], ...]
    line: int
    start: int
    end: int
    tried: bool = False

    @property
    def written(self) -> str:
        """The module as written, with its dots."""
        return "." * self.level + self.module


class SourceText:
    """A source file, parsed once: its bytes, its tree, its import statements.

    Raises:
        ExportError: It is not UTF-8, or no valid Python.
    """

    def __init__(self, path: Path, data: bytes) -> None:
        self.path, self.data = path, data
        try:
            encoding, _ = tokenize.detect_encoding(io.BytesIO(data).readline)
            if encoding not in {"utf-8", "utf-8-sig"}:
                raise ExportError(f"{path}:1: the file is {encoding}; save it as UTF-8")
            self.text = data.decode("utf-8-sig")
            if "\r" in self.text.replace("\r\n", ""):
                raise ExportError(f"{path}:1: a carriage return without a line feed; save it with one kind of line end")
            self.tree = ast.parse(data)
        except SyntaxError as error:
            raise ExportError(f"{path}:{error.lineno or 1}: {error.msg}") from None
        except UnicodeDecodeError:
            raise ExportError(f"{path}:1: the file is not UTF-8 text") from None

    def error(self, line: int, text: str) -> ExportError:
        """An error at a line of this file."""
        return ExportError(f"{self.path}:{line}: {text}")

    @cached_property
    def nodes(self) -> tuple[ast.AST, ...]:
        """Everything in the tree, in the order of `ast.walk`, but for names and constants, which hold no imports."""
        found: list[ast.AST] = [self.tree]
        for node in found:  # grows as it is read: ast.walk takes three times as long
            for field in node._fields:
                value = getattr(node, field, None)
                for item in value if isinstance(value, list) else (value,):
                    if isinstance(item, ast.AST) and not isinstance(item, _LEAVES):
                        found.append(item)
        return tuple(found)

    @cached_property
    def imports_from(self) -> tuple[ImportFrom, ...]:
        """Every `from ... import ...`, wherever it stands."""
        places = self._line_places()
        return tuple(self._import_from(node, places) for node in self.nodes if isinstance(node, ast.ImportFrom))

    def _import_from(self, node: ast.ImportFrom, places: list[int]) -> ImportFrom:
        begin = places[node.lineno - 1] + node.col_offset
        end = places[(node.end_lineno or node.lineno) - 1] + (node.end_col_offset or 0)
        first, last = _module_span(self.data[begin:end])
        names = tuple((alias.name, alias.asname) for alias in node.names)
        return ImportFrom(
            node.module or "", node.level, names, node.lineno, begin + first, begin + last, node in self._tried
        )

    def _line_places(self) -> list[int]:
        """Where each line begins, in bytes: `ast` counts lines by their ends, and columns from behind the BOM."""
        body = self.data.removeprefix(codecs.BOM_UTF8)
        lengths = (len(line) + 1 for line in body.split(b"\n"))
        return list(itertools.accumulate(lengths, initial=len(self.data) - len(body)))

    def imports(self) -> Iterator[tuple[str, int, bool]]:
        """The module and line of every plain `import ...`, and whether it stands in a `try`."""
        for node in self.nodes:
            if isinstance(node, ast.Import):
                yield from ((alias.name, node.lineno, node in self._tried) for alias in node.names)

    @cached_property
    def _tried(self) -> set[ast.AST]:
        """Everything in the body of a `try`: an import there may fail, to loaders too."""
        blocks = (node for node in self.nodes if isinstance(node, ast.Try) and node.handlers)
        return {node for block in blocks for statement in block.body for node in ast.walk(statement)}


@lru_cache(maxsize=128)  # the sources of a model, before and after: most directories of a process share them
def source_text(path: Path, data: bytes) -> SourceText:
    """Return the parsed source of a file. Raises as `SourceText`."""
    return SourceText(path, data)


def loader_finds(text: str) -> Iterator[tuple[str, int]]:
    """The relative modules that transformers' loader sees in a text, with their lines."""
    text = text.replace("\r\n", "\n").replace("\r", "\n")  # it reads files with universal newlines
    for pattern in LOADER_PATTERNS:
        for match in pattern.finditer(text):
            yield match.group(1), text.count("\n", 0, match.start(1)) + 1


def _module_span(statement: bytes) -> tuple[int, int]:
    """The byte span of dots and module name in a statement `from ... import ...`."""
    lines = statement.splitlines(keepends=True)
    starts = list(itertools.accumulate(map(len, lines), initial=0))
    places: list[int] = []
    for token in tokenize.tokenize(io.BytesIO(statement).readline):
        if token.type == tokenize.NAME and token.string == "import":
            break
        dots = token.type == tokenize.OP and set(token.string) == {"."}
        if dots or (token.type == tokenize.NAME and token.string != "from"):
            row, column = token.start
            start = starts[row - 1] + len(lines[row - 1].decode()[:column].encode())
            places += [start, start + len(token.string.encode())]
    return places[0], places[-1]
