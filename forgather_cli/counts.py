"""Numbers among the words of a plain command."""

from __future__ import annotations

from forgather_core.errors import ForgatherError


def whole(text: str, flag: str, *, least: int = 1) -> int:
    """The whole number that a flag was given.

    Raises:
        ForgatherError: It is none, or below `least`.
    """
    try:
        number = int(text)
    except ValueError:
        raise ForgatherError(f"{flag}: '{text}' is not a whole number") from None
    if number < least:
        raise ForgatherError(f"{flag}: {number} is below {least}")
    return number
