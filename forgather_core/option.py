"""`option()` declares a dataclass field together with its command-line option.

Standard library only, since it is exported with every model: a definition's options file imports it.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

METADATA_KEY = "forgather.option"


@dataclasses.dataclass(frozen=True, kw_only=True)
class OptionInfo:
    """Metadata of an option, in addition to the name, type and default of its field.

    Args:
        help: One line for `--help`.
        group: Title of its group in `--help`; None means the options of the definition.
        flags: Further spellings, such as `("-o",)`.
        ge, gt, le, lt: Bounds of a numeric value.
        metavar: Placeholder of the value in `--help`.
        negatable: For a bool, whether `--no-NAME` exists beside `--NAME`.
        merge: For a mapping, True merges a new mapping into the old one key by key; False replaces it.
    """

    help: str
    group: str | None = None
    flags: tuple[str, ...] = ()
    ge: float | None = None
    gt: float | None = None
    le: float | None = None
    lt: float | None = None
    metavar: str | None = None
    negatable: bool = True
    merge: bool = False

    def complaint(self, value: Any) -> str | None:
        """Return the bound that `value` violates, as a message, or None. Bounds apply to numbers only."""
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            return None
        if self.ge is not None and not value >= self.ge:
            return f"must be at least {self.ge:g}, got {value}"
        if self.gt is not None and not value > self.gt:
            return f"must be above {self.gt:g}, got {value}"
        if self.le is not None and not value <= self.le:
            return f"must be at most {self.le:g}, got {value}"
        if self.lt is not None and not value < self.lt:
            return f"must be below {self.lt:g}, got {value}"
        return None


def option(default: Any = dataclasses.MISSING, *, factory: Callable[[], Any] | None = None, **info: Any) -> Any:
    """Declare a field of an options dataclass and, with it, its command-line option.

    Args:
        default: The default value. A list or dict is copied for every instance.
        factory: Function that returns the default, instead of `default`.
        **info: The fields of `OptionInfo`; `help` is required.

    Example:
        >>> @dataclasses.dataclass(kw_only=True)
        ... class TinyOptions:
        ...     hidden_size: int = option(64, help="Model hidden dimension size (d_model)", ge=1)
        >>> TinyOptions().hidden_size
        64
    """
    metadata = {METADATA_KEY: OptionInfo(**info)}
    if factory is None and isinstance(default, (dict, list)):
        value = default
        factory = lambda: type(value)(value)  # noqa: E731 - a fresh copy for every instance
    if factory is not None:
        return dataclasses.field(default_factory=factory, metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


def inherited(options: type, name: str, default: Any) -> Any:
    """Declare the option `name` of a base class with a different default.

    Example:
        >>> @dataclasses.dataclass(kw_only=True)
        ... class SmallOptions(TinyOptions):
        ...     hidden_size: int = inherited(TinyOptions, "hidden_size", 32)
    """
    found = next(field for field in dataclasses.fields(options) if field.name == name)
    info: OptionInfo = found.metadata[METADATA_KEY]
    return option(default, **{field.name: getattr(info, field.name) for field in dataclasses.fields(info)})
