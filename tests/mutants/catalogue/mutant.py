"""A mutant: a mistake in a model directory, as one replacement of text."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from difflib import SequenceMatcher, unified_diff
from typing import Any

LINEAR = {"rope_type": "linear", "rope_theta": 10000.0, "factor": 4.0}
DYNAMIC = {"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 4.0}
YARN = {"rope_type": "yarn", "rope_theta": 10000.0, "factor": 4.0, "original_max_position_embeddings": 512}
WINDOW = {"sliding_window": 512}
GROUPED = {"num_key_value_heads": 2}
TIED = {"tie_word_embeddings": True}


@dataclass(frozen=True, kw_only=True)
class Mutant:
    """A model directory with a mistake.

    Args:
        name: The name: words joined by hyphens.
        definition: The definition or preset that makes the directory.
        file: The file to change, in that directory.
        old: The text to replace.
        new: Its replacement.
        mistake: A description of the mistake, and of its origin if it is known.
        check: The name of the check that must find it.
        options: Options of the definition, in addition to the preset's.
        count: The number of occurrences of the text; all are replaced.
        error: A part of the error message, if the mistake makes calls fail instead of returning wrong values.
        quick: The levels of a quick run show it; otherwise the check runs with all levels.
        beyond_calls: call-agreement does not find it with all levels, because all calls are wrong in the same way, or
            correct: a reason for the other check to exist.
    """

    name: str
    definition: str
    file: str
    old: str
    new: str
    mistake: str
    check: str
    options: Mapping[str, Any] = field(default_factory=dict)
    count: int = 1
    error: str = ""
    quick: bool = True
    beyond_calls: bool = False

    def applied(self, text: str) -> str:
        """Return the text of a file with the mistake.

        Raises:
            ValueError: The text to replace does not occur `count` times.
        """
        if (count := text.count(self.old)) != self.count:
            raise ValueError(
                f"mutant '{self.name}': expected its text {self.count} times in {self.file}, found it {count} times"
                f"{'' if count else _difference(self.old, text, self.file)}"
            )
        return text.replace(self.old, self.new)


def _difference(old: str, text: str, file: str) -> str:
    """Return a diff from the missing lines `old` to the most similar passage of a text."""
    old_lines, lines = old.splitlines(), text.splitlines()
    starts = range(max(1, len(lines) - len(old_lines) + 1))
    compared = SequenceMatcher(b=old, autojunk=False)

    def similarity(start: int) -> float:
        compared.set_seq1("\n".join(lines[start : start + len(old_lines)]))
        return compared.ratio()

    start = max(starts, key=similarity)
    nearest = lines[start : start + len(old_lines)]
    return "\n" + "\n".join(unified_diff(old_lines, nearest, "catalogue", f"{file}:{start + 1}", lineterm="", n=0))
