"""Write docs/scoreboard.md from the results of `scoreboard.py --json`.

    python tools/scoreboard_page.py RESULTS.json [MORE.json ...]

Of several results of a type, the last one counts.
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from scoreboard import BUILT, DIED
from transformers import __version__
from upstream_defects import DEFECTS, SETUP, defects_of, unexplained

_DOCUMENTED = " (documented)"
PAGE = Path(__file__).parent.parent / "docs" / "scoreboard.md"
_INTRODUCTION = f"""\
# Scoreboard: verify on the models of transformers

`forgather verify --quick` on a small copy of each type of causal language model of transformers {__version__},
with random weights. Types with images or sounds are left out; their text models are types of their own.
A program below shows each defect in each type that is listed for it. **Unexplained** failures have no program yet: they
may be defects, or limits of the checks. **Documented**: the class documents what it does. **Not run**: the default
configuration builds no model. **Died**: the process took longer than its time limit.

<!-- not run: it takes half an hour -->
```bash
python tools/scoreboard.py --json RESULTS.json    # each type in a process of its own
python tools/scoreboard_page.py RESULTS.json      # this page
python tools/reproduce.py                         # the programs below, with each type
```

"""


def load(files: Iterable[str]) -> list[dict[str, Any]]:
    """Return the latest result of each type."""
    found: dict[str, dict[str, Any]] = {}
    for file in files:
        for result in json.loads(Path(file).read_text(encoding="utf-8")):
            found[result["kind"]] = result
    return [found[key] for key in sorted(found)]


def outcome(result: Mapping[str, Any]) -> tuple[str, str]:
    """Return the outcome of a type, and the text of its cell."""
    if result["outcome"] != BUILT:
        return ("died" if result["outcome"] == DIED else "not run"), _cell(result["reason"] or "")
    rest = unexplained(result["kind"], result["failures"])
    failures = result["failures"].items()
    found = [
        defect for defect in defects_of(result["kind"]) if any(defect.explains(name, texts) for name, texts in failures)
    ]
    names = [f"{defect.name}{_DOCUMENTED if defect.documented else ''}" for defect in found]
    if rest:
        return "unexplained", "; ".join([*names, f"not explained: {', '.join(rest)}"])
    if not result["failures"]:
        return "passed", ""
    return "documented" if all(defect.documented for defect in found) else "defects", "; ".join(names)


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")[:160]


def page(results: Sequence[Mapping[str, Any]]) -> str:
    """Return the page."""
    rows = [(result["kind"], *outcome(result)) for result in results]
    count = Counter(kind for _, kind, _ in rows)
    numbers = ", ".join(
        f"{count[name]} {name}"
        for name in ("passed", "documented", "defects", "unexplained", "died", "not run")
        if count[name]
    )
    passed = ", ".join(f"`{kind}`" for kind, found, _ in rows if found == "passed")
    table = "\n".join(f"| `{kind}` | {found} | {text} |" for kind, found, text in rows if found != "passed")
    return (
        f"{_INTRODUCTION}{len(rows)} types: {numbers}.\n\n**Passed**: {passed}.\n\n"
        f"| type | result | defects, or the reason |\n|---|---|---|\n{table}\n\n{_defects()}"
    )


def _defects() -> str:
    parts = [
        "## Defects\n\nEach program continues this one, with the name of a type in place of KIND. It requires "
        "transformers only; `python tools/reproduce.py --write scoreboard` writes the small configurations.\n\n"
        f"<!-- not run: tools/reproduce.py runs it -->\n```python\n{SETUP}```\n"
    ]
    for defect in DEFECTS:
        if not defect.types:
            continue
        types = ", ".join(f"`{kind}`" for kind in defect.types)
        title = f"{defect.name[0].upper()}{defect.name[1:]}{_DOCUMENTED if defect.documented else ''}"
        parts.append(
            f"### {title}\n\n{defect.text}\n\nTypes: {types}.\n\n"
            f"<!-- not run: tools/reproduce.py runs it -->\n```python\n{defect.program.rstrip()}\n```\n"
        )
    return "\n".join(parts)


if __name__ == "__main__":
    if not sys.argv[1:]:
        sys.exit(__doc__)
    PAGE.write_text(page(load(sys.argv[1:])), encoding="utf-8")
