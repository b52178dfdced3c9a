"""Measure the import time of plugins, which every command imports: they must not import torch."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType

HEAVY = ("torch", "transformers", "datasets", "tensorflow", "jax", "pandas", "scipy", "sklearn", "pydantic")

_SLOW = 0.5  # seconds
_KNOWN = sys.stdlib_module_names | {"forgather_core"}


class ImportCost:
    """A slow package that a plugin imports.

    Args:
        module: The module of the plugin that imports it.
        package: The package, such as torch.
        seconds: The import time of the plugin; None if the package was already loaded.
    """

    def __init__(self, module: str, package: str, seconds: float | None) -> None:
        self.module, self.package, self.seconds = module, package, seconds

    def __str__(self) -> str:
        took = f", which takes {self.seconds:.1f} s in every command" if self.seconds is not None else ""
        return (
            f"{self.module} imports {self.package}{took}: import it inside functions, or in a module that neither the "
            "plugin nor its options import"
        )


class ImportMeasurement:
    """The modules that were imported within a block, and the duration of the block."""

    def __init__(self) -> None:
        self.before = frozenset(sys.modules)
        self.seconds = 0.0
        self.new: list[str] = []

    def cost(self, module: str) -> ImportCost | None:
        """Return the first slow package that a plugin imports, and the module that imports it; None if there is none.

        Args:
            module: The module of the plugin. Modules that it imports from its own package are searched too.
        """
        root = module.partition(".")[0]
        slow = self._slow_package(root)
        packages = {*HEAVY, *([slow] if slow is not None else [])}
        own = [name for name in dict.fromkeys([*self.new, module]) if name.partition(".")[0] == root]
        found = [(name, package) for name in own for package in _imported(sys.modules.get(name)) & packages]
        # sys.modules is ordered by the start of each import: the innermost importer comes last.
        importer, package = found[-1] if found else (module, slow)
        if package is None:
            return None
        return ImportCost(importer, package, self.seconds if package in self.new else None)

    def _slow_package(self, root: str) -> str | None:
        """Return a slow package that was imported, or the largest package if the import took long; None otherwise."""
        from collections import Counter

        others = Counter(name.partition(".")[0] for name in self.new)
        third_party = {n: count for n, count in others.items() if n not in _KNOWN and n != root}
        if (heavy := next((name for name in HEAVY if name in third_party), None)) is not None:
            return heavy
        return max(third_party, key=third_party.__getitem__) if third_party and self.seconds > _SLOW else None


@contextmanager
def measure_imports() -> Iterator[ImportMeasurement]:
    """Measure the imports within the block."""
    measured, started = ImportMeasurement(), time.perf_counter()
    try:
        yield measured
    finally:
        measured.seconds = time.perf_counter() - started
        measured.new = [name for name in sys.modules if name not in measured.before]


def _imported(module: ModuleType | None) -> set[str]:
    """Return the packages whose modules or objects are in the namespace of a module."""
    values = list(vars(module).values()) if module is not None else ()
    origins = (v.__name__ if isinstance(v, ModuleType) else getattr(v, "__module__", None) for v in values)
    return {origin.partition(".")[0] for origin in origins if isinstance(origin, str)}
