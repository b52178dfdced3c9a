"""Decide whether levels of some factors occur together in a valid case."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

Table = tuple[tuple[int, ...], Collection[tuple[str, ...]]]


class Completion:
    """Search for a valid case that contains given levels; each question is answered once.

    Args:
        levels: The levels of each factor.
        tables: The constraints: the numbers of some factors, and the combinations of their levels that are allowed.
    """

    def __init__(self, levels: Sequence[Sequence[str]], tables: Collection[Table]) -> None:
        self._tables: dict[int, list[Table]] = {}
        for factors, allowed in tables:
            for factor in factors:
                self._tables.setdefault(factor, []).append((factors, frozenset(allowed)))
        self._equal = {factor: self._equal_levels(factor, levels[factor]) for factor in sorted(self._tables)}
        self._levels = {factor: list(dict.fromkeys(equal.values())) for factor, equal in self._equal.items()}
        self._first = {factor: found[0] for factor, found in self._levels.items()}
        self._known: dict[frozenset[tuple[int, str]], bool] = {}

    def possible(self, case: Mapping[int, str]) -> bool:
        """Return whether a valid case contains these levels of these factors."""
        constrained = {factor: self._equal[factor][level] for factor, level in case.items() if factor in self._equal}
        key = frozenset(constrained.items())
        if key not in self._known:
            self._known[key] = self._allowed(constrained, constrained) and self._search(constrained)
        return self._known[key]

    def _equal_levels(self, factor: int, levels: Sequence[str]) -> dict[str, str]:
        """Return, for each level of a factor, the first level that occurs in the same combinations."""
        first: dict[tuple[frozenset[tuple[str, ...]], ...], str] = {}
        equal = {}
        for level in levels:
            others = []
            for factors, allowed in self._tables[factor]:
                n = factors.index(factor)
                others.append(frozenset(row[:n] + row[n + 1 :] for row in allowed if row[n] == level))
            equal[level] = first.setdefault(tuple(others), level)
        return equal

    def _search(self, case: dict[int, str]) -> bool:
        """Complete a partial case that violates no constraint, the factor with the fewest possible levels first."""
        filled = self._first | case
        if self._allowed(filled, filled):
            return True
        choices = {
            factor: [level for level in levels if self._allowed(case | {factor: level}, (factor,))]
            for factor, levels in self._levels.items()
            if factor not in case
        }
        if not choices:
            return False
        factor = min(choices, key=lambda name: len(choices[name]))
        return any(self._search(case | {factor: level}) for level in choices[factor])

    def _allowed(self, case: Mapping[int, str], factors: Collection[int]) -> bool:
        """Return whether a partial case violates no constraint on these factors."""
        for factor in factors:
            for names, allowed in self._tables[factor]:
                row = tuple(case[name] for name in names if name in case)
                if len(row) == len(names) and row not in allowed:
                    return False
        return True
