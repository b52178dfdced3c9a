"""Failures that the author of a definition expects."""

from __future__ import annotations

from collections.abc import Mapping


def expected_reason(check: str, case: str, expected: Mapping[str, str]) -> str | None:
    """Return the reason for which a case is expected to fail, or None.

    Args:
        check: The name of the check.
        case: The case; for call-agreement its id.
        expected: Reasons by `check`, for all its cases, or by `check[case]`: for this case or, with levels of
            call-agreement, for every case that contains them.
    """
    levels = set(case.split(","))
    for key, reason in expected.items():
        name, _, rest = key.partition("[")
        if name == check and (not rest or rest[:-1] == case or set(rest[:-1].split(",")) <= levels):
            return reason
    return None
