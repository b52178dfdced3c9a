"""A partial case is possible if, and only if, some complete case that contains it satisfies every constraint."""

from __future__ import annotations

from itertools import combinations, product

from covertable import criteria
from covertable.main import Controller
from hypothesis import given, settings
from hypothesis import strategies as st

from forgather_core.checks.covering import array
from forgather_core.checks.covering.array import all_levels, covering_array
from forgather_core.checks.covering.completion import Completion, Table

LEVELS = [["a", "b", "c"], ["a", "b"], ["a", "b", "c"], ["a", "b", "c", "d"], ["a", "b"]]


@st.composite
def tables(draw: st.DrawFn) -> list[Table]:
    found: list[Table] = []
    for _ in range(draw(st.integers(1, 6))):
        factors = tuple(draw(st.permutations(range(len(LEVELS))))[: draw(st.integers(2, 3))])
        rows = st.sampled_from(list(product(*(LEVELS[factor] for factor in factors))))
        found.append((factors, set(draw(st.lists(rows, min_size=1, max_size=12)))))
    return found


@given(tables())
@settings(max_examples=60)
def test_every_answer_equals_that_of_all_cases(constraints: list[Table]) -> None:
    valid = [
        case
        for case in product(*LEVELS)
        if all(tuple(case[factor] for factor in factors) in allowed for factors, allowed in constraints)
    ]
    completion = Completion(LEVELS, constraints)
    for size in (1, 2, 3):
        for factors in combinations(range(len(LEVELS)), size):
            for levels in product(*(LEVELS[factor] for factor in factors)):
                partial = dict(zip(factors, levels, strict=True))
                expected = any(all(case[factor] == level for factor, level in partial.items()) for case in valid)
                assert completion.possible(partial) == expected


def test_arrays_cover_what_covertable_covers_without_it() -> None:
    """covertable calls the private name that is replaced, and both leave out the same combinations."""
    levels = dict(list(all_levels(quick=True).items())[:12])
    found = covering_array(levels)
    calls = []

    class Counted(array._Controller):
        def _forward_check(self, snapshot: dict[int, int]) -> bool:
            calls.append(snapshot)
            assert super()._forward_check(snapshot) == Controller._forward_check(self, snapshot)
            return super()._forward_check(snapshot)

    varied = {name: list(values) for name, values in levels.items() if len(values) > 1}
    constraints = [
        constraint
        for rule in array.RULES
        if (constraint := array._constraint(rule, varied, {n: v[0] for n, v in levels.items() if len(v) == 1}))
    ]
    plain = Counted(list(varied.values()), criterion=criteria.simple, salt="0", constraints=constraints).make()
    assert calls
    assert [tuple(row) for row in plain] == [tuple(case[name] for name in varied) for case in found.cases]
