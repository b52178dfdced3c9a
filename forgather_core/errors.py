"""Expected errors, which a user can act on. The command line prints them as one line and exits with `exit_code`.

Any other exception that escapes is a bug and keeps its traceback.
"""

from __future__ import annotations

from .deprecated import keep_old_names


def first_line(error: BaseException) -> str:
    """Return the first line of another library's error message, or the error's type if it has no message."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


class ForgatherError(Exception):
    """Base class of expected errors. The message is a complete sentence that ends with what to do."""

    exit_code = 2


class UnknownDefinitionError(ForgatherError):
    """There is no definition, preset or configuration of that name, or its plugin is broken."""


class DefinitionError(ForgatherError):
    """A plugin breaks the contract of `ModelDefinition` or `option()`."""


class ConfigurationError(ForgatherError):
    """A value of a preset, a YAML file or a flag is invalid. The message starts with the place of the value."""


class ExportError(ForgatherError):
    """A source file cannot be exported. The message starts with file:line."""


class DirectoryError(ForgatherError):
    """A model directory is in the way, stale, edited, or was not written by Forgather."""


class TokenizerError(ForgatherError):
    """A tokenizer cannot be found, read or trained."""


class BuildError(ForgatherError):
    """A model cannot be built on the given device, with the given dtype or attention implementation."""


class CheckpointError(ForgatherError):
    """A checkpoint cannot be read or written."""


class DataError(ForgatherError):
    """A dataset project cannot be found or read, or yields no examples."""


class TrainingCheckError(ForgatherError):
    """A model failed its training check: a non-finite loss, or a parameter outside the graph."""

    exit_code = 1


class CheckError(ForgatherError):
    """A check that does not exist, or a directory that cannot be checked."""


keep_old_names(__name__, {"TrialError": "TrainingCheckError"})
