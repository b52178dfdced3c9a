"""The Python standard library as a corpus: real text on every machine."""

from __future__ import annotations

import ast
import sysconfig
import warnings
from collections.abc import Iterator
from pathlib import Path

from ..errors import DataError

_NOT_STANDARD = {"site-packages", "dist-packages", "__pycache__"}
# Tests and generated tables would make up half of the text and hardly resemble prose or typical code.
_TESTS_AND_TABLES = {"test", "tests", "idle_test", "lib2to3", "encodings", "pydoc_data"}
_EXCLUDED = frozenset(_NOT_STANDARD | _TESTS_AND_TABLES)


def standard_library_texts() -> Iterator[str]:
    """Yield the source files of the standard library, sorted by path.

    Raises:
        DataError: This Python is installed without its sources.
    """
    root = Path(sysconfig.get_path("stdlib"))
    found = False
    for path in sorted(root.rglob("*.py")):
        if _EXCLUDED.isdisjoint(path.relative_to(root).parts):
            try:
                text = path.read_text(encoding="utf-8-sig")
            except (OSError, UnicodeDecodeError):
                continue
            if text.strip():
                found = True
                yield text
    if not found:
        problem = "contains no sources of Python's standard library"
        raise DataError(problem, file=root, hint="use another dataset project")


def standard_library_docstrings() -> Iterator[str]:
    """Yield the docstrings of the standard library: prose rather than code.

    Raises:
        DataError: This Python is installed without its sources.
    """
    for text in standard_library_texts():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # invalid escapes in old files
            try:
                tree = ast.parse(text)
            except SyntaxError:
                continue
        for node in ast.walk(tree):
            if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
                doc = ast.get_docstring(node)
                if doc and len(doc) >= 80:
                    yield doc + "\n"
