"""The decorator of all public functions: it checks keywords, serializes calls, and names keywords in errors."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from functools import wraps
from threading import RLock
from typing import Any, ParamSpec, TypeVar

from forgather_core.errors import ForgatherError
from forgather_core.options.aliases import former_names

from .calls import PARAMETERS, by_name, converted, current_names, no_such_option
from .keywords import with_keywords

_P = ParamSpec("_P")
_R = TypeVar("_R")
_T = TypeVar("_T")
# Calls change state of the process: torch's default dtype, initializers and random generators, transformers' logging.
_CALL_LOCK = RLock()


@contextmanager
def one_call(*, exclusive: bool = True) -> Iterator[None]:
    """Run a call: name keywords instead of flags in its errors, and wait for calls in other threads if `exclusive`."""
    with _CALL_LOCK if exclusive else nullcontext():
        try:
            yield
        except ForgatherError as error:
            error.rename_options(with_keywords)
            raise


def public(options: type | None = None, *, exclusive: bool = True) -> Callable[[Callable[_P, _R]], Callable[_P, _R]]:
    """Return the decorator of public functions.

    An unknown keyword is a TypeError with the nearest name; errors name keywords instead of flags.

    Args:
        options: A dataclass whose options are keywords of the function: their values are converted, former names are
            accepted, and an invalid value is a ConfigurationError.
        exclusive: Wait for calls in other threads, because the function uses global state of the process.
    """

    def decorate(function: Callable[_P, _R]) -> Callable[_P, _R]:
        name, parameters = function.__name__, inspect.signature(function).parameters.values()
        known = _names(parameters)
        accepts_options = any(p.kind is p.VAR_KEYWORD for p in parameters)  # `Call` refuses unknown options
        if accepts_options:
            PARAMETERS[name] = known

        @wraps(function)
        def call(*args: _P.args, **kwargs: _P.kwargs) -> _R:
            with one_call(exclusive=exclusive):
                return function(*args, **(kwargs if accepts_options else _checked(name, known, options, kwargs)))  # type: ignore[arg-type]

        return call

    return decorate


def strict(cls: type[_T]) -> type[_T]:
    """Decorate a class: an unknown keyword of its constructor is a TypeError with the nearest name."""
    init = cls.__init__
    known = _names(inspect.signature(cls).parameters.values())

    @wraps(init)
    def __init__(self: _T, *args: Any, **kwargs: Any) -> None:  # noqa: N807
        init(self, *args, **_checked(cls.__name__, known, None, kwargs))

    cls.__init__ = __init__  # type: ignore[assignment]
    return cls


def _names(parameters: Iterable[inspect.Parameter]) -> tuple[str, ...]:
    return tuple(p.name for p in parameters if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD))


def _checked(function: str, known: Iterable[str], options: type | None, given: Mapping[str, Any]) -> dict[str, Any]:
    """Return keywords by their current names, with converted values."""
    specs = by_name(options) if options is not None else {}
    former = former_names(specs.values())
    for name in given:
        if name not in known and name not in former:
            raise no_such_option(function, name, known)
    of_options = {name: value for name, value in given.items() if name in specs or name in former}
    others = {name: value for name, value in given.items() if name not in of_options}
    return others | converted(specs, current_names(function, specs, of_options))
