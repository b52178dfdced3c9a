"""Failures that the author of a definition expects."""

from __future__ import annotations

from collections.abc import Mapping


def expected_reason(check: str, case: str, expected: Mapping[str, str]) -> str | None:
    """Return the reason why a case is expected to fail, or None.

    Args:
        check: The name of the check.
        case: The case; for call-agreement its id.
        expected: Reasons by key. The key `check` covers all cases of a check, and `check[case]` one case. For
            call-agreement, `check[levels]` covers every case that contains these levels.
    """
    levels = set(case.split(","))
    for key, reason in expected.items():
        name, _, rest = key.partition("[")
        if name == check and (not rest or rest[:-1] == case or set(rest[:-1].split(",")) <= levels):
            return reason
    return None
