"""tools/language.py finds former names and dialect, and nothing else."""

import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parent.parent / "tools"))

from language import ALLOWED, matches, tracked


def found(text: str, path: str = "forgather_core/some.py") -> list[str]:
    return [f"{match.line}: {match.word}" for match in matches(path, text)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('x = "the user is told"\n', ["1: told"]),
        ("# Nobody reads this.\n", ["1: Nobody"]),
        ('def f():\n    """Do it.\n\n    With files of\n    theirs.\n    """\n', ["5: theirs"]),
        ("# and the\n# rest\n", ["1: the # rest"]),
        ("def unsettled_or_settled(): ...\n", ["1: settled"]),
        ("class StepForesight: ...\n", ["1: Foresight"]),
        ("init_spreads = 1\n", ["1: spreads"]),
        ("import verify_drawings\n", ["1: verify_drawings"]),
        ("def rotated(heads): ...\n", ["1: rotated"]),
        ("class Slot: ...\n", ["1: Slot"]),
        ('"""What a model has."""\n', ['1: """What ...']),
        ('def f():\n    """Of the weights."""\n', ['2: """Of ...']),
        ('"""Return what is wrong, or None."""\n', ['1: """Return what ...']),
        ('class A:\n    """Runs the cases of a check."""\n', ['2: """Runs ...']),
        ('run("--like", "d")\n', ["1: --like"]),
    ],
)
def test_a_planted_word_is_found(text: str, expected: list[str]) -> None:
    assert found(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Pass `--utilization 0.3`.", ["1: --utilization"]),
        ("Pass `verify --check rows`.", ["1: --check rows", "1: verify --check"]),
        ("The native-twin check runs,\nanew.", ["1: native-twin", "2: anew"]),
        ("Call `gated(x)`.", ["1: gated"]),
    ],
)
def test_pages_are_searched_too(text: str, expected: list[str]) -> None:
    assert sorted(found(text, "docs/page.md")) == expected


@pytest.mark.parametrize(
    "text",
    [
        "# Heads are rotated and gated, of course; some courses, and hours.\n",
        'run("--context-length", "4", "--like-minded", "--checks", "loss")\n',
        "# An optuna study runs one trial for each value.\n",
        "the_restart = restated\n",
        '"""Whatever the order, tellers tally."""\n',
    ],
)
def test_other_words_are_not(text: str) -> None:
    assert found(text) == []


def test_history_is_not_searched() -> None:
    searched = tracked([])
    assert "README.md" in searched
    assert not [name for name in searched if name.startswith(("CHANGELOG", "tests/artifacts", "benchmarks/results"))]


def test_every_exception_has_a_reason() -> None:
    assert all(len(entry) == 4 and entry[3] for entry in ALLOWED)
