"""Option specs: the type of each `option()` field, and the conversion of flag text and YAML values."""

from __future__ import annotations

import dataclasses
import math
import types
from collections.abc import Callable, Collection, Iterable
from difflib import get_close_matches
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, NamedTuple, Union, get_args, get_origin, get_type_hints

from ..errors import ConfigurationError, DefinitionError
from ..filesystem.paths import expanded
from ..option import METADATA_KEY, OptionInfo

NULL_WORDS = frozenset({"null", "none", "~"})
TRUE_WORDS = frozenset({"true", "yes", "on", "1"})
FALSE_WORDS = frozenset({"false", "no", "off", "0"})


def flag_of(name: str) -> str:
    """Return the flag of an option name: `--hidden-size` for `hidden_size`."""
    return "--" + name.replace("_", "-")


class OptionSpec(NamedTuple):
    """The specification of one option, read from a field of an options dataclass.

    Args:
        name: The field's name, `hidden_size`.
        kind: bool, int, float, str, Path, dict, list, or a tuple of choices.
        optional: Whether null is a value.
        default: The field's default.
        info: The declaration made by `option()`.
    """

    name: str
    kind: type | tuple[Any, ...]
    optional: bool
    default: Any
    info: OptionInfo

    @property
    def flag(self) -> str:
        """The flag, `--hidden-size`."""
        return flag_of(self.name)

    @property
    def negation(self) -> str | None:
        """The negative flag, `--no-tie-word-embeddings`, if the option has one."""
        return f"--no-{self.flag[2:]}" if self.kind is bool and self.info.negatable else None

    @property
    def aliases(self) -> tuple[str, ...]:
        """Former names, which are accepted as flags and YAML keys but not shown."""
        found: tuple[str, ...] = getattr(self.info, "aliases", ())
        return found

    @property
    def is_comma_separated(self) -> bool:
        """Return whether a value is one or more names, as "a,b" or as a list."""
        return bool(getattr(self.info, "comma_separated", False))

    @property
    def flags(self) -> tuple[str, ...]:
        """Every spelling except aliases: short ones first, the negation last."""
        spellings = sorted((self.flag, *self.info.flags), key=len)
        return (*spellings, self.negation) if self.negation else tuple(spellings)

    @property
    def takes_text(self) -> bool:
        """Return whether values are text, so that `1.10` in a YAML file is kept as written."""
        return self.kind in (str, Path) or isinstance(self.kind, tuple)

    @property
    def metavar(self) -> str:
        """The placeholder for the value on a help page."""
        if self.info.metavar:
            return self.info.metavar
        if isinstance(self.kind, tuple):
            return "[" + "|".join(map(str, self.kind)) + "]"
        word = {int: "INT", float: "FLOAT", str: "TEXT", Path: "PATH", dict: "YAML", list: "YAML"}[self.kind]
        return word + "|null" if self.optional else word

    def convert(self, value: Any) -> Any:
        """Convert the text of a flag or a YAML value to the type of this option.

        Raises:
            ConfigurationError: The value is not valid for this option. The caller adds its place (`error.at(...)`).
        """
        if value is None or (isinstance(value, str) and self.optional and value.strip().lower() in NULL_WORDS):
            if not self.optional:
                raise ConfigurationError("null is not allowed", hint="set a value")
            return None
        kind: Any = Literal if isinstance(self.kind, tuple) else self.kind
        result = _CONVERTERS[kind](self, value)
        if (complaint := self.info.complaint(result)) is not None:
            raise ConfigurationError(complaint)
        return result


def _unexpected(spec: OptionSpec, value: Any, expected: str) -> ConfigurationError:
    return ConfigurationError(f"expected {expected}{' or null' if spec.optional else ''}, got '{value}'")


def _to_bool(spec: OptionSpec, value: Any) -> bool:
    word = str(value).strip().lower()
    if isinstance(value, (bool, str)) and word in TRUE_WORDS | FALSE_WORDS:
        return word in TRUE_WORDS
    raise _unexpected(spec, value, "true or false")


def _to_int(spec: OptionSpec, value: Any) -> int:
    if not isinstance(value, bool):
        try:
            return int(value, 0) if isinstance(value, str) else _exact_integer(value)
        except (TypeError, ValueError, OverflowError):
            try:
                return _exact_integer(float(value))  # 1e3 is an integer, 1.5 is not
            except (TypeError, ValueError, OverflowError):
                pass
    raise _unexpected(spec, value, "an integer")


def _exact_integer(value: Any) -> int:
    number = int(value)
    if number != value:
        raise ValueError
    return number


def _to_float(spec: OptionSpec, value: Any) -> float:
    try:
        if not isinstance(value, bool):
            number = float(value)
            if math.isfinite(number):  # NaN passes every bound, and JSON supports neither NaN nor infinity
                return number
    except OverflowError:
        number = math.inf
    except (TypeError, ValueError):
        raise _unexpected(spec, value, "a number") from None
    raise _unexpected(spec, value, "a finite number" if not isinstance(value, bool) else "a number")


def _to_str(spec: OptionSpec, value: Any) -> str:
    if spec.is_comma_separated:
        return ",".join(_names(spec, value))
    if isinstance(value, (dict, list, bool, tuple, set, frozenset, bytes)):
        raise _unexpected(spec, value, "text")
    text = str(value)
    if "\0" in text:
        raise ConfigurationError("a name or path cannot contain NUL characters", hint="remove them")
    return text


def _names(spec: OptionSpec, value: Any) -> list[str]:
    """Return the names in a text or a list. An empty value is an error, because it would select all names."""
    given = value.split(",") if isinstance(value, str) else value
    if not isinstance(given, (list, tuple)) or not all(isinstance(name, str) for name in given):
        raise _unexpected(spec, value, "names separated by commas")
    names = [name.strip() for text in given for name in text.split(",") if name.strip()]
    if not names:
        raise ConfigurationError("contains no name", hint="add one, or remove the option")
    return names


def _to_path(spec: OptionSpec, value: Any) -> Path:
    text = _to_str(spec, value)
    if not text:
        raise ConfigurationError("the path is empty", hint="set a path")
    return expanded(text)


def _to_choice(spec: OptionSpec, value: Any) -> Any:
    choices = {str(choice): choice for choice in spec.kind}  # type: ignore[union-attr]
    if str(value) in choices:
        return choices[str(value)]
    hint = did_you_mean(str(value), choices)
    raise ConfigurationError(f"must be one of {', '.join(choices)}; got '{value}'", hint=hint)


def _to_collection(spec: OptionSpec, value: Any) -> Any:
    from .yaml_text import YamlError, parse_yaml

    if isinstance(value, str):
        try:
            value = parse_yaml(value).value
        except YamlError as error:
            problem = f"not valid YAML at column {error.column}: {error.problem}"
            raise ConfigurationError(problem, hint=error.hint) from None
    if isinstance(value, spec.kind):  # type: ignore[arg-type]
        if (number := _non_finite(value)) is not None:
            raise ConfigurationError(f"expected finite numbers, got {number}")
        return value
    expected = "mapping, for example {a: 1}" if spec.kind is dict else "list, for example [1, 2]"
    raise ConfigurationError(f"expected a YAML {expected}; got {value!r}")


def _non_finite(value: Any) -> float | None:
    """Return an infinite or NaN number found in `value`, or None."""
    if isinstance(value, float):
        return None if math.isfinite(value) else value
    items = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return next((number for item in items if (number := _non_finite(item)) is not None), None)


_CONVERTERS: dict[Any, Callable[[OptionSpec, Any], Any]] = {
    bool: _to_bool,
    int: _to_int,
    float: _to_float,
    str: _to_str,
    Path: _to_path,
    dict: _to_collection,
    list: _to_collection,
    Literal: _to_choice,
}


def use_one_of(names: Collection[str]) -> str:
    """Return the hint that lists the known names: "use one of a, b", or "use a" for a single one."""
    return f"use {'one of ' if len(names) > 1 else ''}{', '.join(names)}"


_MIN_PREFIX = 3  # letters of a word that is taken for the beginning of another


def did_you_mean(word: str, known: Iterable[str], template: str = "'{}'", *, similarity: float = 0.6) -> str | None:
    """Return the hint `"Did you mean 'hidden_size'?"`, or None if no known word is similar.

    Args:
        word: The unknown word. Case is ignored, as are the dashes of a flag.
        known: The known words.
        template: Format of the suggestion.
        similarity: Minimum ratio of difflib for similar words, from 0 to 1.
    """
    names = {name.lstrip("-").lower(): name for name in known}  # the dashes of flags would make all flags similar
    plain = word.lstrip("-").lower()
    near = get_close_matches(plain, names, n=1, cutoff=similarity)
    near = near or [name for name in names if len(plain) >= _MIN_PREFIX and name.startswith(plain)]
    return f"Did you mean {template.format(names[near[0]])}?" if near else None


@lru_cache(maxsize=64)
def specs_of(options: type) -> tuple[OptionSpec, ...]:
    """Return the options that a dataclass declares, in order.

    Raises:
        DefinitionError: `options` is not a dataclass, or the type of a field is not supported.
    """
    if not (isinstance(options, type) and dataclasses.is_dataclass(options)):
        hint = "declare each option as a field with option()"
        raise DefinitionError(f"{options!r} must be a dataclass", hint=hint)
    hints = get_type_hints(options)
    fields = [f for f in dataclasses.fields(options) if METADATA_KEY in f.metadata]
    return tuple(_spec(options, field, hints[field.name]) for field in fields)


def _spec(options: type, field: dataclasses.Field[Any], hint: Any) -> OptionSpec:
    kind, optional = hint, False
    if get_origin(hint) in (Union, types.UnionType):
        members = [arg for arg in get_args(hint) if arg is not type(None)]
        optional = len(members) < len(get_args(hint))
        kind = members[0] if len(members) == 1 else None
    if get_origin(kind) is Literal:
        kind = get_args(kind)
    elif get_origin(kind) in (dict, list):
        kind = get_origin(kind)
    if not isinstance(kind, tuple) and kind not in _CONVERTERS:
        raise DefinitionError(
            f"{options.__name__}.{field.name}: the type {hint!r} is not supported",
            hint="use bool, int, float, str, Path, dict, list or Literal",
        )
    if field.default is not dataclasses.MISSING:
        default = field.default
    elif field.default_factory is not dataclasses.MISSING:
        default = field.default_factory()
    else:
        problem = f"{options.__name__}.{field.name}: an option must have a default"
        raise DefinitionError(problem, hint="add one to option()")
    return OptionSpec(name=field.name, kind=kind, optional=optional, default=default, info=field.metadata[METADATA_KEY])
