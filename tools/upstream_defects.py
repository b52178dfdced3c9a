"""Defects of transformers' models that `scoreboard.py` finds, each with a program that shows it without Forgather.

`upstream_defects.yaml` has them. Each program continues `SETUP`, which has the type as `KIND`, and ends by printing
whether the defect shows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

_FILE = Path(__file__).with_suffix(".yaml")


@dataclass(frozen=True)
class Defect:
    """A defect.

    Args:
        name: A short name.
        text: What is wrong, and when, in a few sentences.
        checks: The checks that fail.
        program: Up to six lines that follow `SETUP`, and print True if the defect shows.
        types: The model types that have it.
        sign: Words in the failures that it explains; None explains all failures of its checks.
        documented: Whether the class documents this behaviour, so that it is no mistake.
    """

    name: str
    text: str
    checks: tuple[str, ...]
    program: str
    types: tuple[str, ...]
    sign: str | None = None
    documented: bool = False

    def explains(self, check: str, texts: Sequence[str]) -> bool:
        """Return whether the defect explains the failures of a check."""
        return check in self.checks and (self.sign is None or any(self.sign in text for text in texts))


def _read() -> tuple[str, tuple[Defect, ...]]:
    content: dict[str, Any] = yaml.safe_load(_FILE.read_text(encoding="utf-8"))
    lists = ("checks", "types")
    entries = [
        {name: tuple(value) if name in lists else value for name, value in one.items()} for one in content["defects"]
    ]
    return content["setup"], tuple(Defect(**entry) for entry in entries)


SETUP, DEFECTS = _read()


def defects_of(kind: str) -> list[Defect]:
    """Return the defects of a model type."""
    return [defect for defect in DEFECTS if kind in defect.types]


def unexplained(kind: str, failures: Mapping[str, list[str]]) -> list[str]:
    """Return the checks that fail on a model type, and that no defect in the list explains."""
    defects = defects_of(kind)
    return [name for name, texts in failures.items() if not any(one.explains(name, texts) for one in defects)]
