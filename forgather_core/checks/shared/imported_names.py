"""The imports of a Python file, and the names that it defines, found with `ast` without running it."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass, field

_GUARD = re.compile(r"^is_\w*(available|greater\w*)$|^(find_spec|version_info|platform|system)$")
_CAUGHT = frozenset({"ImportError", "ModuleNotFoundError", "Exception", "BaseException"})
_ENDS = (ast.Return, ast.Raise, ast.Continue, ast.Break)
_DYNAMIC = frozenset({"import_module", "__import__"})
_TYPES = "TYPE_CHECKING"


@dataclass(frozen=True)
class Import:
    """An import of a module, and of names from it.

    Args:
        module: The dotted module, without leading dots.
        level: The number of leading dots.
        names: The names imported from it; empty for a plain import.
        line: The line number.
        optional: Whether it may fail: it is in `try`, or depends on a version or an installed package.
    """

    module: str
    level: int
    names: tuple[str, ...]
    line: int
    optional: bool

    @property
    def written(self) -> str:
        """The module with its leading dots."""
        return "." * self.level + self.module


def imports_of(tree: ast.Module) -> Iterator[Import]:
    """Yield the imports of a file at any depth, and the calls of `import_module` with a constant name."""
    yield from _imports_in_block(tree.body, optional=False)


def _imports_in_block(body: list[ast.stmt], *, optional: bool) -> Iterator[Import]:
    for statement in body:
        yield from _imports_in(statement, optional=optional)
        if isinstance(statement, ast.If) and _is_guard(statement.test) and isinstance(statement.body[-1], _ENDS):
            optional = True  # `if not is_x_available(): return`


def _imports_in(node: ast.AST, *, optional: bool) -> Iterator[Import]:
    match node:
        case ast.Import():
            yield from (Import(alias.name, 0, (), node.lineno, optional) for alias in node.names)
            return
        case ast.ImportFrom():
            names = tuple(alias.name for alias in node.names)
            yield Import(node.module or "", node.level, names, node.lineno, optional)
            return
        case ast.Call(args=[ast.Constant(value=str(name)), *_]) if _last_name(node.func) in _DYNAMIC:
            module, package = name.lstrip("."), _package(node)
            if package is not None and name.startswith("."):
                module, name = f"{package}.{module}", module
            yield Import(module, len(name) - len(name.lstrip(".")), (), node.lineno, optional)
        case ast.If() | ast.IfExp():
            optional = optional or _is_guard(node.test)
        case ast.Try() | ast.TryStar():
            optional = optional or any(_catches(handler.type) for handler in node.handlers)
        case ast.With() | ast.AsyncWith():
            optional = optional or any(_suppresses(item.context_expr) for item in node.items)
    for _, value in ast.iter_fields(node):
        if isinstance(value, list) and value and isinstance(value[0], ast.stmt):
            yield from _imports_in_block(value, optional=optional)
        else:
            for item in value if isinstance(value, list) else [value]:
                if isinstance(item, ast.AST):
                    yield from _imports_in(item, optional=optional)


def _package(call: ast.Call) -> str | None:
    """Return the constant package that a call of `import_module` passes, or None."""
    given = [*call.args[1:2], *(keyword.value for keyword in call.keywords if keyword.arg == "package")]
    return next((node.value for node in given if isinstance(node, ast.Constant) and isinstance(node.value, str)), None)


def _last_name(node: ast.AST) -> str:
    return node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""


def _is_guard(test: ast.expr) -> bool:
    """Return whether a condition depends on TYPE_CHECKING, an installed package, a version or a platform."""
    names = map(_last_name, ast.walk(test))
    return any(name == _TYPES or _GUARD.match(name) for name in names)


def _catches(kind: ast.expr | None) -> bool:
    return kind is None or any(_last_name(node) in _CAUGHT for node in ast.walk(kind))


def _suppresses(context: ast.expr) -> bool:
    return isinstance(context, ast.Call) and _last_name(context.func) == "suppress" and any(map(_catches, context.args))


@dataclass
class Names:
    """The names that a file defines at run time.

    Args:
        defined: The names.
        stars: The relative modules, with dots, of `from ..x import *`.
        unknown: Whether it may define further names, by `__getattr__`, `globals()` or a star import from a package.
    """

    defined: set[str] = field(default_factory=set)
    stars: set[str] = field(default_factory=set)
    unknown: bool = False


def names_of(tree: ast.Module) -> Names:
    """Return the names that a file defines, without those under TYPE_CHECKING."""
    found = Names()
    for statement in tree.body:
        _collect(statement, found)
    for node in ast.walk(tree):
        if isinstance(node, ast.Global):
            found.defined.update(node.names)
        elif isinstance(node, ast.Call) and _last_name(node.func) in {"globals", "exec", "setattr", "vars"}:
            found.unknown = True
    found.unknown = found.unknown or "__getattr__" in found.defined
    return found


def _collect(node: ast.AST, found: Names) -> None:
    match node:
        case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
            found.defined.add(name)
            return
        case ast.Import():
            found.defined.update(alias.asname or alias.name.partition(".")[0] for alias in node.names)
        case ast.ImportFrom() if any(alias.name == "*" for alias in node.names):
            found.stars.add("." * node.level + (node.module or ""))
            found.unknown = found.unknown or not node.level
        case ast.ImportFrom():
            found.defined.update(alias.asname or alias.name for alias in node.names)
        case ast.AnnAssign(value=None) | ast.Lambda():
            return
        case ast.Name(ctx=ast.Store()):
            found.defined.add(node.id)
        case ast.ExceptHandler() | ast.MatchAs() | ast.MatchStar() if node.name:
            found.defined.add(node.name)
        case ast.If() if any(_last_name(part) == _TYPES for part in ast.walk(node.test)):
            for statement in node.orelse:
                _collect(statement, found)
            return
    for child in ast.iter_child_nodes(node):
        _collect(child, found)
