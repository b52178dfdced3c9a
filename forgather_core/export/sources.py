"""Collect the source files of a model directory: the import closure of a definition, with flat imports.

Files are copied byte for byte, with two exceptions: imports of Forgather's and plugins' modules become relative
(`from .name import`), and the configuration file imports all other files (`naming.py`). An import that the loader of
transformers cannot follow is an error with file and line.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ..errors import ExportError
from .imports import ImportFrom, SourceText, loader_imports, source_text
from .modules import CORE, Packages, entry_file, is_package, module_file
from .naming import import_all_files

_PROVIDED = {"torch", "transformers"}  # required to load any model directory


@dataclass(frozen=True)
class SourceFile:
    """One source file of a model directory.

    Args:
        name: File name in the model directory, `attention.py`.
        module: Module that it is copied from, `forgather_core.parts.attention`.
        path: Path of that module.
        text: Content in the model directory.
        docstring: Docstring of the module; empty if there is none.
    """

    name: str
    module: str
    path: Path
    text: bytes
    docstring: str


@dataclass(frozen=True)
class Sources:
    """Source files of a model directory, and the packages that they require besides torch and transformers."""

    files: tuple[SourceFile, ...]
    requires: tuple[str, ...]


def collect_sources(entries: Sequence[str]) -> Sources:
    """Collect modules and everything that they import, with flat imports.

    Args:
        entries: Dotted names of the modules in `auto_map`, the configuration's first.

    Raises:
        ExportError: An import cannot be exported; the message starts with file and line.
    """
    packages = Packages(list(entries))
    files: dict[str, SourceFile] = {}
    requires: set[str] = set()
    queue = [(entry, entry_file(entry)) for entry in entries]
    while queue:
        module, path = queue.pop()
        name = module.rpartition(".")[2] + ".py"
        if name in files:
            if files[name].module != module:
                problem = f"'{module}' and '{files[name].module}' would both be {name} in the flat model directory"
                raise ExportError(problem, file=path, line=1, hint="rename one")
            continue
        source = source_text(path, path.read_bytes())
        exporter = _Exporter(module, source, packages)
        docstring = ast.get_docstring(source.tree) or ""
        files[name] = SourceFile(name, module, path, exporter.rewritten(), docstring)
        requires |= exporter.requires
        queue += exporter.dependencies.items()
    first = entries[0].rpartition(".")[2]
    flat = {name.removesuffix(".py"): source_text(file.path, file.text) for name, file in files.items()}
    text = import_all_files(first, flat)
    files[f"{first}.py"] = replace(files[f"{first}.py"], text=text)
    flat[first] = source_text(files[f"{first}.py"].path, text)
    _check_loader_imports(flat, {entry.rpartition(".")[2] for entry in entries})
    return Sources(tuple(files[name] for name in sorted(files)), tuple(sorted(requires)))


class _Exporter:
    """A module to export: the modules and packages that it requires, and its text with flat imports."""

    def __init__(self, module: str, source: SourceText, packages: Packages) -> None:
        self.module, self.source, self.packages = module, source, packages
        self.dependencies: dict[str, Path] = {}
        self.requires: set[str] = set()
        self._edits: list[tuple[int, int, bytes]] = []
        self._refuse_plain_and_dynamic_imports()
        for statement in source.imports_from:
            self._follow(statement)

    def rewritten(self) -> bytes:
        """Return the source with flat imports."""
        data = self.source.data
        for start, end, replacement in sorted(self._edits, reverse=True):
            data = data[:start] + replacement + data[end:]
        return data

    # --- one statement -----------------------------------------------------------------------------------------------

    def _follow(self, statement: ImportFrom) -> None:
        target = self._absolute(statement)
        if not self.packages.owns(target):
            self._add_package(target, statement.tried)
            return
        if any(name == "*" for name, _ in statement.names):
            raise self._error(
                statement, f"'from {statement.written} import *' is not supported: import names explicitly"
            )
        modules = {self._defining_module(target, name, statement) for name, _ in statement.names}
        if len(modules) > 1:
            lines = "; ".join(f"from {m} import ..." for m in sorted(m for m, _ in modules))
            raise self._error(
                statement, f"these names come from several modules: import each from its own module ({lines})"
            )
        home, as_module = modules.pop()
        for name, _ in statement.names:
            self._add_dependency(f"{home}.{name}" if as_module else home, statement)
        flat = b"." if as_module else b"." + home.rpartition(".")[2].encode()
        if b"\\" in self._statement_bytes(statement):
            raise self._error(statement, "the loader cannot follow an import with a backslash: use parentheses")
        self._edits.append((statement.start, statement.end, flat))

    def _absolute(self, statement: ImportFrom) -> str:
        if statement.level == 0:
            return statement.module
        is_init = self.source.path.name == "__init__.py"
        parts = self.module.split(".")
        depth = len(parts) - statement.level + (1 if is_init else 0)
        if depth < 1:
            raise self._error(statement, f"'from {statement.written}' is outside the package: use fewer leading dots")
        parts = parts[:depth]
        return ".".join([*parts, statement.module] if statement.module else parts)

    def _defining_module(self, target: str, name: str, statement: ImportFrom) -> tuple[str, bool]:
        """Return the module in which `name` of `target` is defined, and whether `name` is a module itself."""
        if module_file(target) is None:
            raise self._error(statement, f"the module '{target}' does not exist: check the import")
        if not is_package(target):
            return target, False
        defined = _re_exported(target, name, self.packages)
        if defined is not None:
            return defined, False
        if module_file(f"{target}.{name}") is not None:
            return target, True
        raise self._error(
            statement,
            f"'{name}' is defined in the package file of '{target}', which is not exported: move it into a module",
        )

    def _add_dependency(self, module: str, statement: ImportFrom) -> None:
        if not self.packages.exportable(module):
            allowed = f"{CORE}.option and {CORE}.parts"
            raise self._error(statement, f"'{module}' cannot be exported: import only {allowed} from Forgather")
        path = module_file(module)
        if path is None or path.name == "__init__.py":
            raise self._error(statement, f"'{module}' is not a module with a source file: import from a module")
        self.dependencies[module] = path

    def _statement_bytes(self, statement: ImportFrom) -> bytes:
        end = self.source.data.find(b"import", statement.end)
        return self.source.data[statement.start : end if end >= 0 else statement.end]

    # --- unsupported forms of import ---------------------------------------------------------------------------------

    def _refuse_plain_and_dynamic_imports(self) -> None:
        for module, line, tried in self.source.imports():
            if self.packages.owns(module):
                hint = f"use 'from {module} import ...'"
                raise self.source.error(line, f"'import {module}' is not supported", hint)
            self._add_package(module, tried)
        for node in self.source.nodes:
            if isinstance(node, ast.Call):
                self._refuse_call(node)

    def _refuse_call(self, node: ast.Call) -> None:
        function = ast.unparse(node.func)
        argument = node.args[0] if node.args else None
        text = argument.value if isinstance(argument, ast.Constant) and isinstance(argument.value, str) else None
        if function.rpartition(".")[2] in {"import_module", "__import__"} and (
            text is None or text.startswith(".") or self.packages.owns(text)
        ):
            raise self.source.error(
                node.lineno,
                f"{function}(...) of an exported module, or of a name computed at run time, is not supported",
                "use an import statement",
            )
        if function.startswith(("importlib.resources.", "resources.", "pkgutil.")) or function == "files":
            owned = text is not None and self.packages.owns(text)
            if owned or (isinstance(argument, ast.Name) and argument.id in {"__package__", "__name__"}):
                raise self.source.error(
                    node.lineno,
                    f"{function}(...) reads data of a package, which is not exported",
                    "write the data into the source file",
                )

    def _add_package(self, module: str, tried: bool) -> None:
        top = module.partition(".")[0]
        if top not in sys.stdlib_module_names and top not in _PROVIDED and not tried:
            self.requires.add(top)

    def _error(self, statement: ImportFrom, text: str) -> ExportError:
        return self.source.error(statement.line, text)


def _re_exported(package: str, name: str, packages: Packages, depth: int = 0) -> str | None:
    """Return the module from which a package's `__init__.py` statically imports `name` under the same name."""
    file = module_file(package)
    if file is None or depth > 8:
        return None
    source = source_text(file, file.read_bytes())
    for statement in source.imports_from:
        if (name, None) in statement.names or (name, name) in statement.names:
            parts = package.split(".")
            base = parts[: len(parts) - statement.level + 1] if statement.level else []
            target = ".".join([*base, statement.module] if statement.module else base)
            if target == package or not packages.owns(target) or module_file(target) is None:
                continue
            return _re_exported(target, name, packages, depth + 1) if is_package(target) else target
    return None


def _check_loader_imports(by_name: Mapping[str, SourceText], entries: set[str]) -> None:
    """Check that the loader of transformers finds exactly the imports of the written files."""
    seen: dict[str, set[str]] = {}
    for name, source in sorted(by_name.items()):
        found = dict(loader_imports(source.text))
        imported = dict(_flat_imports(source))
        for module, line in found.items():
            if module not in by_name or module not in imported:
                raise source.error(
                    line, f"the loader would read this line as an import of '.{module}'", "reword the line"
                )
        for module, line in imported.items():
            if module not in found:
                raise source.error(
                    line,
                    f"the loader does not find this import of '{module}'",
                    f"write it on a line of its own, 'from .{module} import ...'",
                )
        seen[name] = set(found)
    reached: set[str] = set()
    queue = list(entries)
    while queue:
        name = queue.pop()
        if name not in reached:
            reached.add(name)
            queue += seen[name]
    assert reached == set(by_name), f"the loader would not reach {set(by_name) - reached}"


def _flat_imports(source: SourceText) -> Iterator[tuple[str, int]]:
    """Yield the sibling modules that a written file imports, with lines (`from .x import y`, `from . import x`)."""
    for statement in source.imports_from:
        if statement.level:
            names = [statement.module] if statement.module else [name for name, _ in statement.names]
            yield from ((name, statement.line) for name in names)
