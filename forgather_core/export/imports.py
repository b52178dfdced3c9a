"""Find the import statements of a source file, with the byte span of each module name."""

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

# transformers finds the helper files of remote code by these regular expressions, applied to each line of the text.
LOADER_PATTERNS = (
    re.compile(r"^\s*import\s+\.(\S+)\s*$", re.MULTILINE),
    re.compile(r"^\s*from\s+\.(\S+)\s+import", re.MULTILINE),
)


@dataclass(frozen=True)
class ImportFrom:
    """A statement `from MODULE import NAMES`.

    Args:
        module: The dotted module as written, without leading dots.
        level: The number of leading dots.
        names: The imported names with their aliases.
        line: Line number, from 1.
        start, end: Byte offsets of the start and end of the dots and module name in the source.
        tried: Whether it is in a `try` block, so that the import may fail.
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
    """A parsed source file: bytes, syntax tree and import statements.

    Raises:
        ExportError: The file is not UTF-8, or its syntax is invalid.
    """

    def __init__(self, path: Path, data: bytes) -> None:
        self.path, self.data = path, data
        try:
            encoding, _ = tokenize.detect_encoding(io.BytesIO(data).readline)
            if encoding not in {"utf-8", "utf-8-sig"}:
                raise ExportError(f"the encoding is {encoding}", file=path, line=1, hint="save the file as UTF-8")
            self.text = data.decode("utf-8-sig")
            if "\r" in self.text.replace("\r\n", ""):
                hint = "save the file with consistent line endings"
                raise ExportError("the file has a carriage return without a line feed", file=path, line=1, hint=hint)
            self.tree = ast.parse(data)
        except SyntaxError as error:
            raise ExportError(error.msg, file=path, line=error.lineno or 1, hint="correct the syntax") from None
        except UnicodeDecodeError:
            raise ExportError("the file is not UTF-8 text", file=path, line=1, hint="save it as UTF-8") from None

    def error(self, line: int, problem: str, hint: str | None = None) -> ExportError:
        """Return an error at a line of this file."""
        return ExportError(problem, file=self.path, line=line, hint=hint)

    @cached_property
    def nodes(self) -> tuple[ast.AST, ...]:
        """All nodes in the order of `ast.walk`, without names and constants, which cannot contain imports."""
        found: list[ast.AST] = [self.tree]
        for node in found:  # grows during iteration; ast.walk takes three times as long
            for field in node._fields:
                value = getattr(node, field, None)
                for item in value if isinstance(value, list) else (value,):
                    if isinstance(item, ast.AST) and not isinstance(item, _LEAVES):
                        found.append(item)
        return tuple(found)

    @cached_property
    def imports_from(self) -> tuple[ImportFrom, ...]:
        """All `from ... import ...` statements, at any depth."""
        starts = self._line_starts()
        return tuple(self._import_from(node, starts) for node in self.nodes if isinstance(node, ast.ImportFrom))

    def _import_from(self, node: ast.ImportFrom, starts: list[int]) -> ImportFrom:
        begin = starts[node.lineno - 1] + node.col_offset
        end = starts[(node.end_lineno or node.lineno) - 1] + (node.end_col_offset or 0)
        first, last = _module_span(self.data[begin:end])
        names = tuple((alias.name, alias.asname) for alias in node.names)
        return ImportFrom(
            node.module or "", node.level, names, node.lineno, begin + first, begin + last, node in self._tried
        )

    def _line_starts(self) -> list[int]:
        """Return the byte offset of each line. `ast` counts columns from after a BOM."""
        body = self.data.removeprefix(codecs.BOM_UTF8)
        lengths = (len(line) + 1 for line in body.split(b"\n"))
        return list(itertools.accumulate(lengths, initial=len(self.data) - len(body)))

    def imports(self) -> Iterator[tuple[str, int, bool]]:
        """Yield the module and line of every plain `import ...`, and whether it is in a `try` block."""
        for node in self.nodes:
            if isinstance(node, ast.Import):
                yield from ((alias.name, node.lineno, node in self._tried) for alias in node.names)

    @cached_property
    def _tried(self) -> set[ast.AST]:
        """All nodes in the body of a `try` block. An import there may fail, for transformers' loader too."""
        blocks = (node for node in self.nodes if isinstance(node, ast.Try) and node.handlers)
        return {node for block in blocks for statement in block.body for node in ast.walk(statement)}


@lru_cache(maxsize=128)  # a model's sources before and after rewriting, which most exports of a process share
def source_text(path: Path, data: bytes) -> SourceText:
    """Return the parsed source of a file, cached. Raises like `SourceText`."""
    return SourceText(path, data)


def loader_imports(text: str) -> Iterator[tuple[str, int]]:
    """Yield the relative modules that transformers' loader finds in a text, with their lines."""
    text = text.replace("\r\n", "\n").replace("\r", "\n")  # the loader reads files with universal newlines
    for pattern in LOADER_PATTERNS:
        for match in pattern.finditer(text):
            yield match.group(1), text.count("\n", 0, match.start(1)) + 1


def _module_span(statement: bytes) -> tuple[int, int]:
    """Return the byte span of dots and module name in a statement `from ... import ...`."""
    lines = statement.splitlines(keepends=True)
    starts = list(itertools.accumulate(map(len, lines), initial=0))
    spans: list[int] = []
    for token in tokenize.tokenize(io.BytesIO(statement).readline):
        if token.type == tokenize.NAME and token.string == "import":
            break
        dots = token.type == tokenize.OP and set(token.string) == {"."}
        if dots or (token.type == tokenize.NAME and token.string != "from"):
            row, column = token.start
            start = starts[row - 1] + len(lines[row - 1].decode()[:column].encode())
            spans += [start, start + len(token.string.encode())]
    return spans[0], spans[-1]
