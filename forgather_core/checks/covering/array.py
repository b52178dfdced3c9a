"""A covering array: cases that contain every valid combination of levels of two (or more) factors."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import combinations, product
from math import prod
from typing import Any

from covertable import criteria
from covertable.main import Controller

from .completion import Completion
from .factors import FACTORS, PLAIN, SLOW, Case
from .rules import RULES, Rule

Levels = Mapping[str, tuple[str, ...]]


@dataclass(frozen=True)
class CoveringArray:
    """The cases of a covering array.

    Args:
        cases: The level of each factor in each case.
        combinations: Number of combinations of levels of `strength` factors that occur in a case.
        excluded: Number of combinations that no valid case contains.
        strength: Number of factors whose combinations are covered.
    """

    cases: tuple[Case, ...]
    combinations: int
    excluded: int
    strength: int


class _Controller(Controller):  # type: ignore[misc]  # covertable has no types
    """Make the array with our answer to the question on which covertable spends nine tenths of its time.

    `_forward_check` is private: with a release that renames it, making an array takes several times longer.
    """

    def _forward_check(self, snapshot: Mapping[int, int]) -> bool:
        """Return whether a valid case contains these levels (factors and levels by covertable's numbers)."""
        return self._completion.possible(
            {factor: self.factors[factor][number - self.serials[factor][0]] for factor, number in snapshot.items()}
        )

    @cached_property
    def _completion(self) -> Completion:
        tables = [(found["condition"]["requires"], found["condition"]["allowed"]) for found in self._constraints]
        return Completion(self.factors, tables)


def covering_array(
    levels: Levels, *, strength: int = 2, seed: int = 0, rules: Collection[Rule] = RULES
) -> CoveringArray:
    """Return a covering array over the given levels.

    Args:
        levels: The levels of each factor that apply to a model; a factor with one level does not vary.
        strength: Number of factors whose combinations are covered.
        seed: Selects another array.
        rules: Conditions that every case satisfies.
    """
    return _covering_array(tuple(levels.items()), strength, seed, tuple(rules))


@lru_cache(maxsize=8)
def _covering_array(
    items: tuple[tuple[str, tuple[str, ...]], ...], strength: int, seed: int, rules: tuple[Rule, ...]
) -> CoveringArray:
    levels = dict(items)
    name, slow = SLOW
    others = tuple(level for level in levels.get(name, ()) if level != slow)
    if others and slow in levels[name]:
        cases = _cases({**levels, name: others}, strength, seed, rules)
        cases += _cases({**levels, name: (slow,)}, strength - 1, seed, rules)
    else:
        cases = _cases(levels, strength, seed, rules)
    covered = {frozenset(some) for case in cases for some in combinations(case.items(), strength)}
    count = sum(prod(len(levels[name]) for name in some) for some in combinations(levels, strength))
    return CoveringArray(cases, len(covered), count - len(covered), strength)


def _cases(levels: Levels, strength: int, seed: int, rules: Collection[Rule]) -> tuple[Case, ...]:
    """Return cases that contain every valid combination of levels of `strength` factors."""
    varied = {name: list(found) for name, found in levels.items() if len(found) > 1}
    fixed = {name: found[0] for name, found in levels.items() if len(found) == 1}
    constraints = [found for rule in rules if (found := _constraint(rule, varied, fixed)) is not None]
    # The simple criterion makes a sixth more cases than the greedy one, in a fifth of its time.
    how = {"criterion": criteria.simple, "salt": str(seed), "constraints": constraints}
    # Factors by number: covertable splits a name at its dots at each lookup.
    controller = _Controller(list(varied.values()), strength=min(strength, len(varied)), **how)
    rows = [dict(zip(varied, row, strict=True)) for row in controller.make()]
    return tuple({name: {**fixed, **row}[name] for name in levels} for row in rows)


def _constraint(rule: Rule, varied: Mapping[str, list[str]], fixed: Mapping[str, str]) -> dict[str, Any] | None:
    """Return a rule as a constraint of covertable: one that looks up the combinations it allows."""
    names = [name for name in rule.factors if name in varied]
    possible = list(product(*(varied[name] for name in names)))
    allowed = {some for some in possible if rule.holds({**PLAIN, **fixed, **dict(zip(names, some, strict=True))})}
    if len(allowed) == len(possible):
        return None
    numbers = tuple(list(varied).index(name) for name in names)
    return {
        "operator": "fn",
        "requires": numbers,
        "allowed": allowed,
        "evaluate": lambda row: tuple(row[number] for number in numbers) in allowed,
    }


def all_levels(*, quick: bool = False) -> dict[str, tuple[str, ...]]:
    """Return the levels of every factor, or those of a quick run."""
    return {factor.name: factor.quick if quick and factor.quick else factor.levels for factor in FACTORS}
