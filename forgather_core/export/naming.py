"""Add imports of all files of a model directory to its configuration file, so that transformers copies them.

transformers follows the imports of remote code from file to file. But release 5.4 copies only the files that the entry
file of a local directory imports itself, and then fails at the first missing file. Therefore the missing imports are
added to the `if TYPE_CHECKING:` block of the entry file: transformers reads it as text, and Python does not execute it.
"""

from __future__ import annotations

import ast
from collections.abc import Mapping

from .imports import SourceText, loader_imports

_COMMENT = b"# older releases of transformers copy only the files that are named here"


def import_all_files(entry: str, sources: Mapping[str, SourceText]) -> bytes:
    """Return the entry file with an import of every other file.

    Args:
        entry: Name of the entry module, `configuration_x`.
        sources: All files by module name, with flat imports.

    Raises:
        ExportError: An import line is missing, and there is no block to add it to.
    """
    source = sources[entry]
    imported = {module for module, _ in loader_imports(source.text)} | {entry}
    missing = sorted(sources.keys() - imported)
    if not missing:
        return source.data
    last = _last_type_checking_import(source.tree)
    if last is None:
        raise source.error(
            1,
            "the configuration file must import the model's file for loaders",
            "add 'if TYPE_CHECKING:' with 'from .modeling_x import X'",
        )
    lines = source.data.splitlines(keepends=True)
    end = b"\r\n" if lines[last.lineno - 1].endswith(b"\r\n") else b"\n"
    indent = lines[last.lineno - 1][: last.col_offset]
    added = [_COMMENT, *(f"from .{m} import {_public_name(sources[m].tree)}  # noqa: F401".encode() for m in missing)]
    at = last.end_lineno or last.lineno
    return b"".join([*lines[:at], *(indent + line + end for line in added), *lines[at:]])


def _last_type_checking_import(tree: ast.Module) -> ast.ImportFrom | None:
    """Return the last relative import in the `if TYPE_CHECKING:` blocks of the module."""
    found = None
    for block in tree.body:
        if isinstance(block, ast.If) and ast.unparse(block.test).rpartition(".")[2] == "TYPE_CHECKING":
            found = next((n for n in reversed(block.body) if isinstance(n, ast.ImportFrom) and n.level), found)
    return found


def _public_name(tree: ast.Module) -> str:
    """Return a public name that the module defines."""
    for node in tree.body:
        if isinstance(node, (ast.ClassDef, ast.FunctionDef)) and not node.name.startswith("_"):
            return node.name
    return "__name__"
