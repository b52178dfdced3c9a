"""Imports: every import of the directory's Python files can be resolved, also those inside functions.

No code is executed, so imports in rarely called functions are checked, too.
"""

from __future__ import annotations

import ast
import importlib.util
import sys
from collections.abc import Iterator
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path

from ..definitions.check import DoesNotApply, Measured, check, expect
from ..errors import first_line
from ..export.modules import Packages
from .shared.imported_names import Import, imports_of, names_of
from .shared.model_under_test import ModelUnderTest


@check("imports", cause="an import in rarely executed code, or a name that was renamed or removed")
def imports(subject: ModelUnderTest) -> Iterator[Measured]:
    """Every import of the directory's Python files names an installed package, or a file and a name that exist.

    Imports in `try`, under TYPE_CHECKING and behind `is_..._available()` may be missing.
    """
    root = subject.workdir
    files = sorted(path for path in root.rglob("*.py") if "__pycache__" not in path.parts)
    if not files:
        raise DoesNotApply("the directory has no Python files")
    resolver = _Resolver(root, (root, subject.directory.resolve()), Packages([]) if subject.made_by_forgather else None)
    for file in files:
        name = file.relative_to(root).as_posix()
        try:
            tree = ast.parse(file.read_bytes())
        except (SyntaxError, ValueError) as error:
            yield expect(name, False, failure=f"{name} is not valid Python: {first_line(error)}")
            continue
        found = list(imports_of(tree))
        problems = [(one, problem) for one in found if (problem := resolver.problem(file, one)) is not None]
        for one, problem in problems:
            yield expect(f"{name}, import of {one.written}", False, f"{name}:{one.line}", failure=problem)
        if not problems:
            yield expect(f"{name}, {len(found)} imports", True)


class _Resolver:
    """Find modules without importing them.

    Args:
        root: The directory whose files are checked.
        own: The paths of that directory; modules below them do not count as installed.
        unavailable: Packages that the directory must not require.
    """

    def __init__(self, root: Path, own: tuple[Path, ...], unavailable: Packages | None) -> None:
        self.root, self.own, self.unavailable = root, own, unavailable

    def problem(self, file: Path, one: Import) -> str | None:
        """Return the problem of an import in a file, or None."""
        if one.optional:
            return None
        return self._relative(file, one) if one.level else self._absolute(one.module)

    def _absolute(self, module: str) -> str | None:
        top = module.partition(".")[0]
        if self.unavailable is not None and (self.unavailable.owns(top) or top.startswith("forgather")):
            return f"the import of {module} requires {top}, which a model directory must not require"
        if _is_installed(module, self.own):
            return None
        if _file(self.root / top) is not None:
            return f"{module} is a file of this directory: import it as .{module}"
        missing = module if not _is_installed(top, self.own) else f"module {module} of the package {top}"
        return f"{missing} is not installed" if missing == module else f"there is no {missing}"

    def _relative(self, file: Path, one: Import) -> str | None:
        directory = file.parent
        for _ in range(one.level - 1):
            directory = directory.parent
        if not directory.is_relative_to(self.root):
            return f"{one.written} is outside of the directory"
        target = directory.joinpath(*one.module.split(".")) if one.module else directory
        source = _file(target)
        if source is None and not target.is_dir():
            return f"the directory has no file for {one.written}"
        absent = [name for name in one.names if name != "*" and not self._defines(source, target, name)]
        return f"{one.written} does not define {', '.join(absent)}" if absent else None

    def _defines(self, source: Path | None, target: Path, name: str) -> bool:
        """Return whether a module defines a name, or has a submodule of that name."""
        if target.is_dir() and (_file(target / name) is not None or (target / name).is_dir()):
            return True
        return source is not None and self._has_name(source, name, frozenset())

    def _has_name(self, source: Path, name: str, seen: frozenset[Path]) -> bool:
        try:
            names = names_of(ast.parse(source.read_bytes()))
        except (SyntaxError, ValueError):
            return True  # reported for that file
        if names.unknown or name in names.defined or (name.startswith("__") and name.endswith("__")):
            return True
        for star in names.stars:
            module = star.lstrip(".")
            directory = source.parent
            for _ in range(len(star) - len(module) - 1):
                directory = directory.parent
            other = _file(directory.joinpath(*module.split(".")) if module else directory)
            if other is not None and other not in seen and self._has_name(other, name, seen | {source}):
                return True
        return False


def _file(path: Path) -> Path | None:
    """Return the source file of the module at a path without suffix, or None."""
    candidates = (path.with_name(path.name + ".py"), path / "__init__.py")
    return next((candidate for candidate in candidates if candidate.is_file()), None)


def _is_installed(module: str, own: tuple[Path, ...]) -> bool:
    """Return whether a module is part of Python or of an installed package; files below `own` are not."""
    top, *others = module.split(".")
    if top in sys.stdlib_module_names and not others:
        return True
    try:
        spec = importlib.util.find_spec(top)  # of a top-level name: nothing is imported
    except (ImportError, ValueError):
        return False
    if spec is None or (spec.origin and any(Path(spec.origin).is_relative_to(path) for path in own)):
        return False
    found = top
    for name in others:
        if spec.submodule_search_locations is None:
            return module in sys.modules or _is_dynamic(spec)
        found = f"{found}.{name}"
        below = PathFinder.find_spec(found, list(spec.submodule_search_locations))
        if below is None:
            return module in sys.modules  # an alias
        spec = below
    return True


def _is_dynamic(spec: ModuleSpec) -> bool:
    """Return whether a module that is not a package may add submodules when it is imported, such as `six.moves`."""
    if not spec.origin or not spec.origin.endswith(".py"):
        return False
    text = Path(spec.origin).read_text(encoding="utf-8", errors="replace")
    return "sys.modules" in text or "__path__" in text
