"""Integer options of commands without dynamic options."""

from __future__ import annotations

from forgather_core.errors import ForgatherError


def whole(text: str, flag: str, *, least: int = 1) -> int:
    """Convert the value of a flag to an integer.

    Raises:
        ForgatherError: The value is not an integer, or is below `least`.
    """
    try:
        number = int(text)
    except ValueError:
        raise ForgatherError(f"expected an integer, got '{text}'", option=flag) from None
    if number < least:
        raise ForgatherError(f"must be at least {least}, got {number}", option=flag)
    return number
