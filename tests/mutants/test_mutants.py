from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from .apply import Originals, checks, mutated, tried
from .catalogue import MUTANTS, Mutant

# Of each kind one, by the check that catches it in the least time.
SAMPLE = {
    "clamp-after-mask": "causality",
    "window-one-more": "window",
    "padding-counted-in-positions": "padding",
    "packing-ignored-with-cache": "packing-isolation",
    "cached-keys-not-rotated": "cache",
    "rope-interleaved": "native-twin",
    "activation-missing": "equations",
    "init-not-by-depth": "spreads",
    "init-draws-another-std": "initial-weights",
    "loss-in-parts-keeps-one-gradient": "labels",
    "alibi-slopes-outside-the-graph": "gradients",
    "checkpointing-dead": "gradient-checkpointing",
}


@pytest.fixture(scope="module")
def originals(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Originals]:
    yield Originals(tmp_path_factory.mktemp("originals"))


def test_names_are_told_apart() -> None:
    assert len({mutant.name for mutant in MUTANTS}) == len(MUTANTS)


@pytest.mark.few(20)
@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_the_text_is_there_and_what_replaces_it_parses(mutant: Mutant, originals: Originals) -> None:
    text = (originals.of(mutant).path / mutant.file).read_text(encoding="utf-8")
    changed = mutant.applied(text)
    assert ast.dump(ast.parse(changed)) != ast.dump(ast.parse(text))


@pytest.mark.slow
@pytest.mark.parametrize(("name", "check"), SAMPLE.items())
def test_the_check_catches_it(name: str, check: str, originals: Originals, tmp_path: Path) -> None:
    mutant = next(mutant for mutant in MUTANTS if mutant.name == name)
    original = originals.of(mutant)
    assert not tried("original", original.path, original.settings, checks([check])).failed
    assert tried(name, mutated(mutant, original, tmp_path), original.settings, checks([check])).failed.keys() == {check}


def test_a_text_that_is_gone_is_an_error() -> None:
    with pytest.raises(ValueError, match=r"mutant 'x': its text is in a.py 0 times, not 1"):
        Mutant("x", "llama", "a.py", "gone", "new", "").applied("text")
