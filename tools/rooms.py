"""Draw the rooms of forgather_core from the import graph, in docs/architecture.md.

python tools/rooms.py [--check]

The drawing is a Mermaid graph. An arrow points from a room to a room that it imports; arrows that follow from others
are left out. Without --check the page is written; with it, exit code 1 where the page differs. A cycle between rooms is
an error in either case.
"""

from __future__ import annotations

import sys
from pathlib import Path

import grimp

PAGE = Path(__file__).parent.parent / "docs" / "architecture.md"
BEGIN, END = "<!-- rooms: begin -->\n", "<!-- rooms: end -->\n"
PACKAGE = "forgather_core"


def room_imports() -> dict[str, set[str]]:
    """Return the rooms that each room imports, imports within functions included."""
    graph = grimp.build_graph(PACKAGE, exclude_type_checking_imports=True)
    rooms = sorted(child.rpartition(".")[2] for child in graph.find_children(PACKAGE))
    found: dict[str, set[str]] = {room: set() for room in rooms}
    for module in graph.modules - {PACKAGE}:
        room = module.split(".")[1]
        for target in graph.find_modules_directly_imported_by(module) - {PACKAGE}:
            found[room] |= {target.split(".")[1]} - {room}
    return found


def ordered(imports: dict[str, set[str]]) -> list[list[str]]:
    """Return the rooms in levels: each imports only rooms of later levels.

    Raises:
        SystemExit: Rooms import each other in a cycle.
    """
    levels: list[list[str]] = []
    left = dict(imports)
    while left:
        top = sorted(room for room in left if not any(room in targets for targets in left.values()))
        if not top:
            raise SystemExit(f"rooms import each other in a cycle: {', '.join(sorted(left))}")
        levels.append(top)
        for room in top:
            del left[room]
    return levels


def reduced(imports: dict[str, set[str]]) -> dict[str, set[str]]:
    """Return the imports that no chain of other imports implies."""

    def reachable(room: str) -> set[str]:
        return imports[room].union(*(reachable(target) for target in imports[room]))

    return {room: targets - set().union(*(reachable(t) for t in targets), set()) for room, targets in imports.items()}


def drawing() -> str:
    """Return the Mermaid graph."""
    imports = room_imports()
    levels = ordered(imports)
    arrows = reduced(imports)
    lines = [f"    {room} --> {target}" for level in levels for room in level for target in sorted(arrows[room])]
    return "\n".join(["```mermaid", "graph TD", *lines, "```", ""])


def main() -> int:
    """Write the drawing, or check it."""
    page = PAGE.read_text(encoding="utf-8")
    before, rest = page.split(BEGIN)
    after = rest.split(END)[1]
    new = before + BEGIN + drawing() + END + after
    if "--check" in sys.argv[1:]:
        if new != page:
            print(f"{PAGE.name}: the drawing of the rooms is out of date: run python tools/rooms.py")
        return int(new != page)
    PAGE.write_text(new, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
