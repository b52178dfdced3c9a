"""Find the source files of Forgather and its plugins without importing them."""

from __future__ import annotations

import importlib.util
from functools import cache
from importlib.metadata import entry_points
from pathlib import Path

from ..definitions.hookspecs import ENTRY_POINT_GROUP
from ..errors import ExportError

CORE = "forgather_core"
EXPORTABLE = ("forgather_core.option", "forgather_core.parts")  # the only modules of the core that can be exported
NOT_EXPORTABLE = ("forgather_cli", "forgather")


class Packages:
    """Packages that a model directory must not depend on: modules of these packages are copied into it, or refused.

    These are Forgather's own packages, every plugin, and the packages of the definition.

    Args:
        entries: Modules that the definition refers to.
    """

    def __init__(self, entries: list[str]) -> None:
        plugins = {point.module.partition(".")[0] for point in entry_points(group=ENTRY_POINT_GROUP)}
        self.names = {CORE, *NOT_EXPORTABLE, *plugins, *(entry.partition(".")[0] for entry in entries)}

    def owns(self, module: str) -> bool:
        """Return whether a module belongs to these packages."""
        return module.partition(".")[0] in self.names

    @staticmethod
    def exportable(module: str) -> bool:
        """Return whether a module of these packages can be exported."""
        top = module.partition(".")[0]
        if top in NOT_EXPORTABLE:
            return False
        return top != CORE or module in EXPORTABLE or module.startswith("forgather_core.parts.")


@cache
def _roots(package: str) -> tuple[Path, ...]:
    try:
        spec = importlib.util.find_spec(package)  # finding a top-level name imports nothing
    except (ImportError, ValueError):
        spec = None
    if spec is None:
        return ()
    if spec.submodule_search_locations is not None:
        return tuple(Path(location) for location in spec.submodule_search_locations)
    return (Path(spec.origin),) if spec.origin else ()


def module_file(module: str) -> Path | None:
    """Return the source file of a module, `__init__.py` for a package; None if there is none."""
    top, _, submodules = module.partition(".")
    for root in _roots(top):
        if root.suffix == ".py":
            return root if not submodules else None
        location = root.joinpath(*submodules.split(".")) if submodules else root
        for candidate in (location.with_suffix(".py") if submodules else None, location / "__init__.py"):
            if candidate is not None and candidate.is_file():
                return candidate
    return None


def is_package(module: str) -> bool:
    """Return whether a module is a package."""
    file = module_file(module)
    return file is not None and file.name == "__init__.py"


def entry_file(module: str) -> Path:
    """Return the source file of a module that a definition refers to.

    Raises:
        ExportError: The module has no source file.
    """
    file = module_file(module)
    if file is None:
        problem = f"the module '{module}' of the definition has no source file (.py)"
        raise ExportError(problem, hint="correct its name in ModelDefinition")
    return file
