"""Names every file of a model directory in its configuration file.

transformers follows the imports of remote code from file to file. Release 5.4 copies, from a local directory, only what
the entry file itself names, and then stops at the first file that is missing. So the entry file's block
`if TYPE_CHECKING:`, which is read by loaders and run by nobody, gets one import line for each file it lacks.
"""

from __future__ import annotations

import ast
from collections.abc import Mapping

from .imports import SourceText, loader_finds

WHY = b"# older releases of transformers copy only the files that are named here"


def name_all_files(entry: str, sources: Mapping[str, SourceText]) -> bytes:
    """The entry file's text, naming every other file.

    Args:
        entry: Name of the entry module, `configuration_x`.
        sources: All files, flat already, by module name.

    Raises:
        ExportError: There is something to add, and no block to add it to.
    """
    source = sources[entry]
    named = {module for module, _ in loader_finds(source.text)} | {entry}
    missing = sorted(sources.keys() - named)
    if not missing:
        return source.data
    last = _last_import_for_readers(source.tree)
    if last is None:
        raise source.error(
            1,
            "the configuration file must name the model's file for loaders: "
            "'if TYPE_CHECKING:' with 'from .modeling_x import X' in it",
        )
    lines = source.data.splitlines(keepends=True)
    end = b"\r\n" if lines[last.lineno - 1].endswith(b"\r\n") else b"\n"
    indent = lines[last.lineno - 1][: last.col_offset]
    added = [WHY, *(f"from .{m} import {_public_name(sources[m].tree)}  # noqa: F401".encode() for m in missing)]
    at = last.end_lineno or last.lineno
    return b"".join([*lines[:at], *(indent + line + end for line in added), *lines[at:]])


def _last_import_for_readers(tree: ast.Module) -> ast.ImportFrom | None:
    """The last relative import in a block `if TYPE_CHECKING:` of the module, on a line of its own."""
    found = None
    for block in tree.body:
        if isinstance(block, ast.If) and ast.unparse(block.test).rpartition(".")[2] == "TYPE_CHECKING":
            found = next((n for n in reversed(block.body) if isinstance(n, ast.ImportFrom) and n.level), found)
    return found


def _public_name(tree: ast.Module) -> str:
    """A name that the module defines."""
    for node in tree.body:
        if isinstance(node, (ast.ClassDef, ast.FunctionDef)) and not node.name.startswith("_"):
            return node.name
    return "__name__"
