"""Draw the import graph of forgather_core's packages in docs/architecture.md.

python tools/package_graph.py [--check]

The graph is a Mermaid diagram. An arrow points from a package to a package that it imports; an import that a chain of
other imports implies is omitted. With --check, the page is not written, and the exit code is 1 if it is out of date. A
cycle between packages is always an error.
"""

from __future__ import annotations

import sys
from pathlib import Path

import grimp

PAGE = Path(__file__).parent.parent / "docs" / "architecture.md"
BEGIN, END = "<!-- packages: begin -->\n", "<!-- packages: end -->\n"
ROOT = "forgather_core"


def package_imports() -> dict[str, set[str]]:
    """Return the packages that each package imports, including imports within functions."""
    graph = grimp.build_graph(ROOT, exclude_type_checking_imports=True)
    packages = sorted(child.rpartition(".")[2] for child in graph.find_children(ROOT))
    imports: dict[str, set[str]] = {package: set() for package in packages}
    for module in graph.modules - {ROOT}:
        package = module.split(".")[1]
        for target in graph.find_modules_directly_imported_by(module) - {ROOT}:
            imports[package] |= {target.split(".")[1]} - {package}
    return imports


def topological_levels(imports: dict[str, set[str]]) -> list[list[str]]:
    """Return the packages in levels: each imports only packages of later levels.

    Raises:
        SystemExit: Packages import each other in a cycle.
    """
    levels: list[list[str]] = []
    remaining = dict(imports)
    while remaining:
        imported = set[str]().union(*remaining.values())
        top = sorted(package for package in remaining if package not in imported)
        if not top:
            names = ", ".join(sorted(remaining))
            raise SystemExit(f"packages import each other in a cycle: {names}: remove one of these imports")
        levels.append(top)
        for package in top:
            del remaining[package]
    return levels


def transitive_reduction(imports: dict[str, set[str]]) -> dict[str, set[str]]:
    """Return the transitive reduction: the imports that no chain of other imports implies."""

    def reachable(package: str) -> set[str]:
        return imports[package].union(*(reachable(target) for target in imports[package]))

    return {name: targets - set().union(*(reachable(t) for t in targets), set()) for name, targets in imports.items()}


def mermaid_graph() -> str:
    """Return the Mermaid graph."""
    imports = package_imports()
    levels = topological_levels(imports)
    arrows = transitive_reduction(imports)
    lines = [f"    {name} --> {target}" for level in levels for name in level for target in sorted(arrows[name])]
    return "\n".join(["```mermaid", "graph TD", *lines, "```", ""])


def main() -> int:
    """Write the graph into the page; with `--check`, return 1 if the page is out of date."""
    page = PAGE.read_text(encoding="utf-8")
    before, remainder = page.split(BEGIN)
    after = remainder.split(END)[1]
    new = before + BEGIN + mermaid_graph() + END + after
    if "--check" in sys.argv[1:]:
        if new != page:
            print(f"{PAGE.name}: the package graph is out of date: run python tools/package_graph.py")
        return int(new != page)
    PAGE.write_text(new, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
