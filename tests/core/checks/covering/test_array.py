"""A covering array contains every valid combination of levels, and only valid cases."""

from __future__ import annotations

from itertools import combinations, product

import pytest

from forgather_core.checks.covering.applicable import _switching_rule
from forgather_core.checks.covering.array import all_levels, covering_array
from forgather_core.checks.covering.factors import FACTORS, NAMES, PLAIN, SLOW, case_id, case_of
from forgather_core.checks.covering.rules import RULES, Rule, violated
from forgather_core.checks.covering.usual import USUAL, usual_cases

SMALL = {"a": ("0", "1", "2"), "b": ("0", "1"), "c": ("0", "1", "2"), "d": ("0", "1")}
FORBIDDEN = (
    Rule(("a", "b"), lambda c: not (c["a"] == "2" and c["b"] == "1"), ""),
    Rule(("b", "c", "d"), lambda c: c["b"] == "0" or c["c"] != "2" or c["d"] == "1", ""),
)


@pytest.mark.parametrize("strength", [2, 3])
@pytest.mark.parametrize("seed", range(4))
def test_every_combination_that_a_valid_case_contains_is_covered(strength: int, seed: int) -> None:
    valid = [
        case
        for levels in product(*SMALL.values())
        if all(rule.holds(case := dict(zip(SMALL, levels, strict=True))) for rule in FORBIDDEN)
    ]
    possible = {some for case in valid for some in combinations(case.items(), strength)}
    array = covering_array(SMALL, strength=strength, seed=seed, rules=FORBIDDEN)
    assert all(case in valid for case in array.cases)
    assert {some for case in array.cases for some in combinations(case.items(), strength)} == possible
    assert array.combinations == len(possible)
    assert len(array.cases) < len(valid)


def test_seeds_give_other_arrays_and_the_same_seed_the_same() -> None:
    first, again, other = (covering_array(SMALL, seed=seed, rules=FORBIDDEN) for seed in (0, 0, 1))
    assert first == again
    assert first.cases != other.cases


def test_a_factor_with_one_level_does_not_vary() -> None:
    array = covering_array(SMALL | {"d": ("0",)}, rules=FORBIDDEN)
    assert {case["d"] for case in array.cases} == {"0"}
    assert not any(case["b"] == "1" and case["c"] == "2" for case in array.cases)  # requires d=1


@pytest.mark.parametrize("strength", [2, 3])
def test_the_slow_level_is_in_few_cases_and_every_combination_is_covered(strength: int) -> None:
    name, slow = SLOW
    levels = {**SMALL, name: ("off", slow)}
    rules = (*FORBIDDEN, Rule((name, "a"), lambda c: c[name] != slow or c["a"] != "1", ""))
    valid = [
        case
        for chosen in product(*levels.values())
        if all(rule.holds(case := dict(zip(levels, chosen, strict=True))) for rule in rules)
    ]
    possible = {some for case in valid for some in combinations(case.items(), strength)}
    array = covering_array(levels, strength=strength, rules=rules)
    assert all(case in valid for case in array.cases)
    assert {some for case in array.cases for some in combinations(case.items(), strength)} == possible
    assert sum(case[name] == slow for case in array.cases) <= {2: 4, 3: 11}[strength]


def test_no_combination_requires_the_slow_level() -> None:
    name, slow = SLOW
    other = PLAIN[name]
    levels = {factor.name: factor.levels for factor in FACTORS}
    for rule in RULES:
        for chosen in product(*(levels[factor] for factor in rule.factors)):
            case = {**PLAIN, **dict(zip(rule.factors, chosen, strict=True))}
            assert rule.holds({**case, name: other}) or not rule.holds({**case, name: slow}), rule.reason


@pytest.mark.parametrize("quick", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_the_cases_of_calls_are_valid_and_cover_each_level(quick: bool) -> None:
    levels = all_levels(quick=quick)
    array = covering_array(levels)
    assert all(violated(case) is None for case in array.cases)
    assert {(name, level) for case in array.cases for name, level in case.items()} == {
        (name, level) for name, found in levels.items() for level in found
    }
    for case in array.cases:
        assert case_of(case_id(case)) == case
    assert array.excluded < 0.1 * (array.combinations + array.excluded)


def test_usual_calls_have_a_meaning_and_those_that_apply_are_chosen() -> None:
    assert all(violated(case) is None for case in USUAL)
    assert usual_cases(all_levels()) == USUAL
    without = all_levels() | {"attention": ("eager", "sdpa")}
    assert len(usual_cases(without)) == len(USUAL) - 2


def test_rules_read_only_the_factors_that_they_name() -> None:
    class Recorded(dict[str, str]):
        def __getitem__(self, name: str) -> str:
            read.add(name)
            return super().__getitem__(name)

    for rule in RULES:
        for levels in product(*(next(f.levels for f in FACTORS if f.name == name) for name in rule.factors)):
            read = set[str]()
            rule.holds(Recorded(PLAIN | dict(zip(rule.factors, levels, strict=True))))
            assert read <= set(rule.factors), rule.reason


def test_beyond_the_length_at_which_rope_changes_texts_are_equally_long() -> None:
    rule = _switching_rule(100)
    assert rule.holds(case_of("length=65,rows=unequal,padding=left,mask=2d,cache=dynamic,chunks=uneven"))
    assert rule.holds(case_of("length=128,rows=equal,cache=dynamic,gradients=on"))
    for wrong in ("rows=unequal,padding=right,mask=2d", "cache=dynamic,chunks=uneven", "cache=cropped", "padding=left"):
        assert not rule.holds(case_of(f"length=128,{wrong}"))


def test_ids_name_the_levels_that_are_not_plain() -> None:
    assert case_id(PLAIN) == "plain"
    assert case_of("plain") == PLAIN
    case = dict(PLAIN) | {"padding": "left", "cache": "static"}
    assert case_id(case) == "padding=left,cache=static"
    assert list(case_of("cache=static,padding=left")) == list(NAMES)
    for wrong in ("padding", "padding=up"):
        with pytest.raises(ValueError, match="padding must be one of none, left, right, both, middle; got '"):
            case_of(wrong)
    for wrong in ("color=red", ""):
        with pytest.raises(ValueError, match="is not a level of a factor, FACTOR=LEVEL"):
            case_of(wrong)
