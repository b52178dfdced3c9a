"""Checks of constructor arguments."""


def positive(**sizes: float) -> None:
    """Check that every size is above 0.

    Raises:
        ValueError: A value is out of range; the message names it.
    """
    for name, value in sizes.items():
        if not value > 0:
            raise ValueError(f"{name} must be above 0, got {value}")


def probability(**values: float) -> None:
    """Check that every value is at least 0 and below 1.

    Raises:
        ValueError: A value is out of range; the message names it.
    """
    for name, value in values.items():
        if not 0 <= value < 1:
            raise ValueError(f"{name} must be at least 0 and below 1, got {value}")


def divisible(name: str, value: int, by: str, divisor: int) -> None:
    """Check that both numbers are above 0, and that `value` is a multiple of `divisor`.

    Raises:
        ValueError: They are not; the message has both names and values.
    """
    positive(**{name: value, by: divisor})
    if value % divisor:
        raise ValueError(f"{name} must be a multiple of {by}, got {name}={value} and {by}={divisor}")
