"""Rename exported classes that have the name of a transformers class but compute a different model.

Some tools select their implementation by class name: `transformers serve` and llama.cpp's converter by `architectures`,
others by the configuration class. They would run the transformers model instead of the exported one.
"""

from __future__ import annotations

import ast
import io
import itertools
import tokenize
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from ..errors import ExportError
from .imports import source_text
from .native import native_problem

if TYPE_CHECKING:
    from ..settings.resolved_model import ResolvedModel
    from .sources import SourceFile, Sources

PREFIX = "Forgather"


def class_renames(resolved: ResolvedModel, sources: Sources) -> dict[str, str]:
    """Return new names for the classes of a model directory; none if the transformers class computes the same model.

    Args:
        resolved: The resolved model.
        sources: The source files.

    Returns:
        New names by old name.
    """
    import transformers

    defined = {
        node.name
        for file in sources.files
        for node in source_text(file.path, file.text).tree.body
        if isinstance(node, ast.ClassDef) and hasattr(transformers, node.name)
    }
    if not defined or native_problem(resolved, cached=True) is None:
        return {}
    return {name: f"{PREFIX}{name}" for name in sorted(defined)}


def rename_classes(sources: Sources, names: Mapping[str, str]) -> Sources:
    """Rename classes in all source files.

    Raises:
        ExportError: A file uses a class of the model and a class of another package with the same name.
    """
    if not names:
        return sources
    modules = {file.name.removesuffix(".py") for file in sources.files}
    return replace(sources, files=tuple(_renamed(file, names, modules) for file in sources.files))


def _renamed(file: SourceFile, names: Mapping[str, str], modules: set[str]) -> SourceFile:
    source = source_text(file.path, file.text)
    own = {node.name for node in source.tree.body if isinstance(node, ast.ClassDef)}
    foreign = set[str]()
    for statement in source.imports_from:
        imported = {name for pair in statement.names for name in pair if name}
        own |= imported if statement.level else set()
        foreign |= set() if statement.level else imported
    if both := sorted(own & foreign & names.keys()):
        problem = f"'{both[0]}' names a class of the model and a class of another package"
        raise ExportError(problem, file=file.path, line=1, hint="rename the model's class")
    names = {old: new for old, new in names.items() if old not in foreign}
    lines = list(io.StringIO(file.text.decode("utf-8"), newline=""))
    tokens = list(tokenize.generate_tokens(io.StringIO("".join(lines), newline="").readline))
    previous = itertools.chain([None, None], tokens)
    triples = list(zip(previous, itertools.chain([None], tokens), tokens, strict=False))
    for owner, dot, token in reversed(triples):
        if token.type != tokenize.NAME or token.string not in names:
            continue
        if dot is not None and dot.string == "." and (owner is None or owner.string not in modules):
            continue  # an attribute of another object, such as `transformers`
        row, column = token.start
        line = lines[row - 1]
        lines[row - 1] = line[:column] + names[token.string] + line[column + len(token.string) :]
    return replace(file, text="".join(lines).encode("utf-8"))
