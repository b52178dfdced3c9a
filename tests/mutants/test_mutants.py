from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from .apply import Originals, checks, mutated, tried
from .catalogue import MUTANTS, Mutant

# One mutant of each kind, and the fastest check that catches it.
SAMPLE = {
    "clamp-after-mask": "causality",
    "window-one-more": "sliding-window",
    "padding-counted-in-positions": "padding",
    "packing-ignored-with-cache": "packing-isolation",
    "cached-keys-not-rotated": "kv-cache",
    "rope-interleaved": "native-parity",
    "activation-missing": "reference-parity",
    "init-not-by-depth": "init-std",
    "init-draws-another-std": "initial-weights",
    "chunked-loss-keeps-one-gradient": "loss",
    "alibi-slopes-outside-the-graph": "gradients",
    "checkpointing-dead": "gradient-checkpointing",
}


@pytest.fixture(scope="module")
def originals(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Originals]:
    yield Originals(tmp_path_factory.mktemp("originals"))


def test_names_are_unique() -> None:
    assert len({mutant.name for mutant in MUTANTS}) == len(MUTANTS)


@pytest.mark.few(20)
@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_the_text_exists_and_its_replacement_parses(mutant: Mutant, originals: Originals) -> None:
    text = (originals.of(mutant).path / mutant.file).read_text(encoding="utf-8")
    changed = mutant.applied(text)
    assert ast.dump(ast.parse(changed)) != ast.dump(ast.parse(text))


@pytest.mark.slow
@pytest.mark.parametrize(("name", "check"), SAMPLE.items())
def test_the_check_catches_it(name: str, check: str, originals: Originals, tmp_path: Path) -> None:
    mutant = next(mutant for mutant in MUTANTS if mutant.name == name)
    original = originals.of(mutant)
    assert not tried("original", original.path, original.resolved, checks([check])).failed
    assert tried(name, mutated(mutant, original, tmp_path), original.resolved, checks([check])).failed.keys() == {check}


def test_a_text_that_does_not_exist_is_an_error() -> None:
    with pytest.raises(ValueError, match=r"mutant 'x': expected its text 1 times in a.py, found it 0 times"):
        Mutant("x", "llama", "a.py", "gone", "new", "").applied("text")
