"""Expected errors, which a user can act on. The command line prints them as one line and exits with `exit_code`.

Any other exception that escapes is a bug and keeps its traceback.
"""

from __future__ import annotations

import errno
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypedDict

from .deprecated import keep_old_names


def first_line(error: BaseException) -> str:
    """Return the first line of another library's error message, or the error's type if it has no message."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


_REMEDIES = {
    errno.ENOMEM: "free memory",
    errno.ENOSPC: "free disk space",
    errno.EDQUOT: "free disk space",
    errno.EIO: "check the disk",
    # Those of filesystem.disk: the file is larger than supported, or not a regular file.
    errno.EFBIG: "use a smaller file",
    errno.EINVAL: "use a regular file",
}


def access_hint(error: BaseException) -> str:
    """Return the hint for a file that cannot be read or written, or that has invalid content."""
    if isinstance(error, UnicodeDecodeError):
        return "save it as UTF-8"
    if not isinstance(error, OSError):
        return "correct the file"
    return _REMEDIES.get(error.errno or 0, "check the path and its permissions")


# A problem that begins with one of these follows the place without a colon: "--force requires --full".
_VERBS = frozenset({
    "already", "belongs", "cannot", "contains", "does", "exists", "has", "is", "lists", "must", "names", "requires",
    "was", "would",
})  # fmt: skip


class Place(TypedDict, total=False):
    """The place of an error, as keyword arguments of `ForgatherError`."""

    option: str
    file: Path | str
    line: int
    column: int


class ForgatherError(Exception):
    """Base class of expected errors. The message is one sentence made from the fields.

    `str(error)` is "FILE:LINE:COLUMN: OPTION: PROBLEM: HINT" without the parts that are None, or "OPTION: FILE: ..."
    without a line. A problem that begins with a verb (is, has, must, requires, ...) follows an option or a file without
    a colon.

    Args:
        problem: Description of the problem; a complete clause if there is no place.
        option: The flag, keyword or YAML key, as the user wrote it: "--seed", "seed".
        file: The file or directory that the problem is in.
        line: Line in the file, from 1.
        column: Column in the line, from 1.
        hint: The action to take.

    Example:
        >>> str(ForgatherError("requires --full", option="--force"))
        '--force requires --full'
        >>> str(ForgatherError("expected an integer, got 'x'", option="seed", file="exp.yaml", line=3))
        "exp.yaml:3: seed: expected an integer, got 'x'"
        >>> str(ForgatherError("is a file", option="tokenizer", file="a.json", hint="use its directory"))
        'tokenizer: a.json is a file: use its directory'
    """

    exit_code = 2
    _with_flags: ForgatherError | None = None

    def __init__(
        self,
        problem: str,
        *,
        option: str | None = None,
        file: Path | str | None = None,
        line: int | None = None,
        column: int | None = None,
        hint: str | None = None,
    ) -> None:
        super().__init__(problem)
        self.problem, self.option, self.file = problem, option, None if file is None else str(file)
        self.line, self.column, self.hint = line, column, hint

    def __str__(self) -> str:
        where = ":".join(str(part) for part in (self.file, self.line, self.column) if part is not None)
        places = (where, self.option) if self.line is not None else (self.option, where)
        place = ": ".join(part for part in places if part)
        continues = self.problem.partition(" ")[0] in _VERBS and (self.line is None or self.option is not None)
        separator = "" if not place else " " if continues else ": "
        cut = self.problem.endswith("...")  # a mark of truncation
        problem = self.problem.rstrip(" .:") if self.hint and not cut else self.problem
        return f"{place}{separator}{problem}" + _hint_suffix(self.hint)

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.problem,), self.__dict__

    def fields(self) -> dict[str, Any]:
        """Return the fields by name, as plain data; None where the error has no such field."""
        return {name: getattr(self, name) for name in ("problem", "option", "file", "line", "column", "hint")}

    def rename_options(self, rename: Callable[[str], str]) -> None:
        """Replace the flags in problem, option and hint by keywords of a Python call; `with_flags` keeps the flags.

        Args:
            rename: Returns a text with its flags replaced.
        """
        if self._with_flags is None:
            self._with_flags = type(self)(**self.fields())
            self.problem = rename(self.problem)
            self.option, self.hint = (None if text is None else rename(text) for text in (self.option, self.hint))
            self.args = (self.problem,)

    @property
    def with_flags(self) -> ForgatherError:
        """The error as the command line prints it: options are flags."""
        return self._with_flags or self

    def at(
        self,
        kind: type[ForgatherError] | None = None,
        *,
        option: str | None = None,
        file: Path | str | None = None,
        line: int | None = None,
        column: int | None = None,
    ) -> ForgatherError:
        """Return a copy of the error with an added place.

        If the error already has one of the given fields, its own place becomes part of the problem.

        Args:
            kind: Class of the new error; None keeps the class.
            option: See `ForgatherError`.
            file: See `ForgatherError`.
            line: See `ForgatherError`.
            column: See `ForgatherError`.
        """
        place = {"option": option, "file": file, "line": line, "column": column}
        place = {name: value for name, value in place.items() if value is not None}
        own = self.fields()
        if any(own[name] is not None for name in place):
            own = {"problem": str(type(self)(**own | {"hint": None})), "hint": self.hint}
        return (kind or type(self))(**own | place)


def _hint_suffix(hint: str | None) -> str:
    """Return the hint with its separator: a colon, or a full stop before a question."""
    return "" if not hint else f". {hint}" if hint.endswith("?") else f": {hint}"


class UnknownDefinitionError(ForgatherError):
    """An unknown definition, preset or configuration, or one whose plugin is broken."""


class DefinitionError(ForgatherError):
    """A violation of the contract of `ModelDefinition` or `option()` by a plugin."""


class ConfigurationError(ForgatherError):
    """An invalid value of a preset, a YAML file or a flag. The message starts with the place of the value."""


class ExportError(ForgatherError):
    """A source file that cannot be exported. The message starts with file:line."""


class DirectoryError(ForgatherError):
    """A model directory that is stale, edited, not written by Forgather, or not writable."""


class TokenizerError(ForgatherError):
    """A tokenizer that cannot be found, read or trained."""


class BuildError(ForgatherError):
    """A model that cannot be built on the given device, with the given dtype or attention implementation."""


class CheckpointError(ForgatherError):
    """A checkpoint that cannot be read or written."""


class DataError(ForgatherError):
    """A dataset project that cannot be found or read, or yields no examples."""


class TrainingCheckError(ForgatherError):
    """A failed training check: a non-finite loss, or a parameter that receives no gradient."""

    exit_code = 1


class TrainingError(ForgatherError):
    """A training run that cannot begin or continue, or whose loss or gradient is not finite."""


class CheckError(ForgatherError):
    """A check that does not exist, or a directory that cannot be checked."""


keep_old_names(__name__, {"TrialError": "TrainingCheckError"})
