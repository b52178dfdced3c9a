"""Finds the source files of our packages without importing them."""

from __future__ import annotations

import importlib.util
from functools import cache
from importlib.metadata import entry_points
from pathlib import Path

from ..definitions.hookspecs import ENTRY_POINT_GROUP
from ..errors import ExportError

CORE = "forgather_core"
EXPORTABLE = ("forgather_core.option", "forgather_core.parts")  # of the core, nothing else may be exported
NEVER = ("forgather_cli", "forgather")


class Packages:
    """The packages whose modules become part of a model directory.

    Args:
        entries: Modules of the definition; their top-level packages are ours, and so are the core and every package
            that an entry point of a plugin names.
    """

    def __init__(self, entries: list[str]) -> None:
        plugins = {point.module.partition(".")[0] for point in entry_points(group=ENTRY_POINT_GROUP)}
        self.names = {CORE, *NEVER, *plugins, *(entry.partition(".")[0] for entry in entries)}

    def owns(self, module: str) -> bool:
        """Whether a dotted module name is of ours."""
        return module.partition(".")[0] in self.names

    @staticmethod
    def exportable(module: str) -> bool:
        """Whether a module of ours may stand in a model directory."""
        top = module.partition(".")[0]
        if top in NEVER:
            return False
        return top != CORE or module in EXPORTABLE or module.startswith("forgather_core.parts.")


@cache
def _roots(package: str) -> tuple[Path, ...]:
    try:
        spec = importlib.util.find_spec(package)  # a top-level name: finding it imports nothing
    except (ImportError, ValueError):
        spec = None
    if spec is None:
        return ()
    if spec.submodule_search_locations is not None:
        return tuple(Path(place) for place in spec.submodule_search_locations)
    return (Path(spec.origin),) if spec.origin else ()


def module_file(module: str) -> Path | None:
    """The source file of a module of ours, its `__init__.py` for a package, or None."""
    top, _, rest = module.partition(".")
    for root in _roots(top):
        if root.suffix == ".py":
            return root if not rest else None
        place = root.joinpath(*rest.split(".")) if rest else root
        for candidate in (place.with_suffix(".py") if rest else None, place / "__init__.py"):
            if candidate is not None and candidate.is_file():
                return candidate
    return None


def is_package(module: str) -> bool:
    """Whether a module of ours is a package."""
    file = module_file(module)
    return file is not None and file.name == "__init__.py"


def entry_file(module: str) -> Path:
    """The source file of a module that a definition names.

    Raises:
        ExportError: There is none.
    """
    file = module_file(module)
    if file is None:
        raise ExportError(f"the module '{module}', which the definition names, has no source file (.py)")
    return file
