"""Check that the remedy of an error uses options of the command that failed, or of a command that it names."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache
from pathlib import Path

FROZEN = Path(__file__).parent / "frozen"
MODEL = ("construct", "test", "train", "verify", "show", "estimate", "compare")
GROUPS = {
    "model": MODEL,
    "checkpoint": ("inspect", "convert"),
    "dataset": ("ls", "show"),
    "tokenizer": ("train",),
    "plugin": ("new",),
}
PLAIN = ("ls", "verify", "sample", "eval", "plugins")
ROOT = {"--help", "--template", "--project", "--version"}
FLAG = re.compile(r"(?<![\w-])--[a-z][\w-]+")


def wrong_remedy(arguments: Sequence[str], error: str) -> str | None:
    """Return the first option in the remedy of an error that the command does not have, or None.

    Args:
        arguments: The arguments of the program.
        error: The message: place, problem and remedy, separated by colons.
    """
    command = command_of(arguments)
    remedy = re.sub(r"hf download .*", "", error.rpartition(": ")[2])  # another program
    if command is None or not FLAG.search(remedy):
        return None
    named = {(group, name) for group, names in GROUPS.items() for name in names if f"{group} {name}" in remedy}
    named |= {("model", name) for name in MODEL if re.search(rf"\b{name}\b", remedy)}
    known = set().union(ROOT, flags_of(command), *(flags_of(one) for one in named))
    return next((flag for flag in FLAG.findall(remedy) if flag not in known and flag not in arguments), None)


def command_of(arguments: Sequence[str]) -> tuple[str, str] | None:
    """Return the group and the name of a command; the group of `verify DIR` is empty."""
    words = [word for word in arguments if not word.startswith("-")]
    for group, names in GROUPS.items():
        if group in words:
            found = next((word for word in words[words.index(group) :] if word in names), None)
            return None if found is None else (group, found)
    found = next((word for word in words if word in PLAIN), None)
    return None if found is None else ("", found)


@cache
def flags_of(command: tuple[str, str]) -> frozenset[str]:
    """Return the options of a command, from its frozen help page; with `model`, those of all definitions too."""
    group, name = command
    if group == "model":
        pages = [*FROZEN.glob(f"{name}*.txt"), *FROZEN.glob("model_*.txt")]
        pages = [page for page in pages if not page.stem.endswith("_directory")]
    elif group:
        pages = [FROZEN / f"{group}_{name}.txt"]
    else:
        pages = [FROZEN / ("verify_directory.txt" if name == "verify" else f"{name}.txt")]
    flags = {flag for page in pages for flag in FLAG.findall(page.read_text(encoding="utf-8"))}
    return frozenset(flags | {f"--no-{flag[2:]}" for flag in flags})
