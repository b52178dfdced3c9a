"""Former names of modules, classes and their members: they keep working, hidden, and warn with the new name."""

from __future__ import annotations

import functools
import sys
import warnings
from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any, TypeVar

_C = TypeVar("_C", bound=type)


def warn_renamed(old: str, new: str, *, stacklevel: int = 2) -> None:
    """Warn that a name is deprecated.

    Args:
        old: The deprecated name, as the caller wrote it.
        new: The name to use instead.
        stacklevel: Stack frames to skip, as for `warnings.warn`; 2 is the caller of the function that calls this one.
    """
    warnings.warn(f"{old} is deprecated: use {new}", DeprecationWarning, stacklevel=stacklevel + 1)


def keep_old_names(module: str, names: Mapping[str, str]) -> None:
    """Give a module a `__getattr__` that resolves old names to new ones.

    The function is set here and not defined in the module: type checkers accept any import from a module that defines
    one, and would no longer report a misspelt name.

    Args:
        module: The module that has the new names.
        names: Old names to new names.
    """

    def __getattr__(name: str) -> Any:  # noqa: N807 - assigned to the module under this name
        if name not in names:
            raise AttributeError(f"module {module!r} has no attribute {name!r}")
        warn_renamed(f"{module}.{name}", f"{module}.{names[name]}")
        return getattr(sys.modules[module], names[name])

    vars(sys.modules[module])["__getattr__"] = __getattr__


def moved_module(old: str, new: str, names: Mapping[str, str]) -> None:
    """Keep the import path of a module that moved.

    Args:
        old: The full name under which it can still be imported.
        new: The full name of the module that has its contents now; it must be imported already.
        names: Old names in it to new names. Other names are looked up in the new module.
    """

    def __getattr__(name: str) -> Any:  # noqa: N807 - assigned to the module under this name
        if name.startswith("__"):
            raise AttributeError(f"module {old!r} has no attribute {name!r}")
        value = getattr(sys.modules[new], names.get(name, name))
        warn_renamed(f"{old}.{name}", f"{new}.{names.get(name, name)}")
        return value

    module = ModuleType(old, f"Moved to `{new}`.")
    module.__dict__["__getattr__"] = __getattr__
    sys.modules[old] = module


def renamed_members(**names: str) -> Callable[[_C], _C]:
    """Return a class decorator that keeps old names of attributes and of constructor arguments.

    Args:
        names: Old names to new names.
    """

    def decorate(cls: _C) -> _C:
        for old, new in names.items():
            setattr(cls, old, _alias(cls.__name__, old, new))
        construct = cls.__init__  # type: ignore[misc]

        @functools.wraps(construct)
        def __init__(self: Any, *args: Any, **kwargs: Any) -> None:  # noqa: N807 - assigned to the class
            for old in kwargs.keys() & names.keys():
                warn_renamed(f"{cls.__name__}({old}=...)", f"{cls.__name__}({names[old]}=...)")
                kwargs[names[old]] = kwargs.pop(old)
            construct(self, *args, **kwargs)

        cls.__init__ = __init__  # type: ignore[misc]
        return cls

    return decorate


def _alias(owner: str, old: str, new: str) -> property:
    def get(self: Any) -> Any:
        warn_renamed(f"{owner}.{old}", f"{owner}.{new}")
        return getattr(self, new)

    return property(get)
