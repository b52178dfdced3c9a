"""Convert exceptions raised while loading a model directory into one-line errors with file and line number."""

from __future__ import annotations

import re
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

from ..errors import ForgatherError, Place, access_hint, first_line
from ..filesystem.model_files import check_files
from ..filesystem.printable import printable, shortened
from ..filesystem.strict_json import read_object
from ..runtime.out_of_memory import out_of_memory
from ..runtime.quiet import quiet_transformers
from .code_cache import code_cache


def load_config(directory: Path, error: type[ForgatherError], **changes: Any) -> Any:
    """Load the configuration of a model directory with its own code, or with transformers' class of its model type.

    Args:
        directory: The model directory.
        error: Class of the error, which has a one-line message that names the file.
        changes: Values that override those of the file.
    """
    check_files(directory, error)
    with loading_errors(directory, error), code_cache(error) if has_code(directory) else nullcontext():
        from transformers import AutoConfig

        with quiet_transformers():  # transformers warns if the name of the directory is not a Python identifier
            return AutoConfig.from_pretrained(directory, trust_remote_code=True, **changes)


def has_code(directory: Path) -> bool:
    """Return whether loading the model or its tokenizer imports code of the directory."""
    return any(map(partial(_names_code, directory), ("config.json", "tokenizer_config.json")))


def _names_code(directory: Path, name: str) -> bool:
    try:
        return "auto_map" in read_object(directory / name)
    except (OSError, ValueError):
        return False  # the next reader reports the problem


@contextmanager
def loading_errors(directory: Path, error: type[ForgatherError], *, imports_only: bool = False) -> Iterator[None]:
    """Raise exceptions from a model directory's files as one-line errors with file and line number.

    Args:
        directory: The model directory.
        error: Class of the error to raise.
        imports_only: Do not convert exceptions that the code raises after its import: they are bugs of the model, and
            its author needs the traceback. If the directory was edited since it was written, all are converted.
    """
    try:
        yield
    except ForgatherError:
        raise
    except (Exception, SystemExit) as reason:
        if out_of_memory(reason):
            raise
        if not imports_only or isinstance(reason, (SyntaxError, ImportError, OSError)):
            found = _describe(directory, reason)
        elif names := edited(directory):
            kind = type(reason).__name__
            problem = f"cannot be built after an edit of {', '.join(names)}: {kind}: {first_line(reason)}"
            hint = "undo the edit, or rebuild the directory with model construct --refresh-model"
            found = ForgatherError(problem, file=directory, hint=hint)
        else:
            raise
        raise error(**found.fields() | {"problem": printable(shortened(found.problem, 600))}) from reason


def edited(directory: Path) -> list[str]:
    """Return the configuration and source files of a directory that were edited since Forgather wrote them."""
    from .manifest import edited_files, read_manifest

    manifest = read_manifest(directory)
    names = manifest.files if manifest is not None else ()
    model_files = [name for name in names if name == "config.json" or name.endswith(".py")]
    return sorted(edited_files(directory, manifest.files, model_files)) if manifest is not None else []


def _describe(directory: Path, reason: BaseException) -> ForgatherError:
    if isinstance(reason, SyntaxError) and reason.filename:
        place = directory / Path(reason.filename).name
        where: Place = {"file": place, "line": reason.lineno or 1, "column": reason.offset or 1}
        return ForgatherError(reason.msg, **where, hint="correct the syntax")
    if isinstance(reason, FileNotFoundError) and reason.filename:
        place = directory / Path(reason.filename).name
        return ForgatherError("is missing, and the model's code imports it", file=place, hint="restore it")
    if (line := _failing_line(directory, reason)) is not None:
        kind = "" if isinstance(reason, ImportError) else f"{type(reason).__name__}: "
        hint = "correct the code, or install the package that it imports"
        return ForgatherError(f"{kind}{first_line(reason)}", **line, hint=hint)
    if isinstance(reason, UnicodeDecodeError) and (source := _not_utf8(directory)) is not None:
        return ForgatherError(f"is not UTF-8: {first_line(reason)}", file=source, hint=access_hint(reason))
    file = directory / "config.json"
    if not file.is_file():
        problem = "is missing" if not file.exists() else "is not a regular file"
        return ForgatherError(problem, file=file, hint="name a model directory")
    if (unknown := _unknown_type(file)) is not None:
        return unknown
    text = first_line(reason.__cause__ or reason)
    if (missing := re.search(r"does not appear to have a file named ([\w.]+\.py)", text)) is not None:
        return ForgatherError("is missing", file=directory / missing[1], hint="copy the complete model directory again")
    problem, hint = f"cannot be loaded: {text}", "correct the file"
    return ForgatherError(problem, file=file, hint=hint)


def _not_utf8(directory: Path) -> Path | None:
    """Return the first source file of a directory that is not UTF-8, which transformers cannot read."""
    for source in sorted(directory.glob("*.py")):
        try:
            source.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            return source
        except OSError:
            continue
    return None


def _failing_line(directory: Path, reason: BaseException) -> Place | None:
    """Return the innermost line of the directory's code that failed while it was imported."""
    frames = [f for f in traceback.extract_tb(reason.__traceback__) if "transformers_modules" in f.filename]
    if not any(frame.name == "<module>" for frame in frames):
        return None  # the code was imported, and refuses a value of config.json
    return {"file": directory / Path(frames[-1].filename).name, "line": frames[-1].lineno or 1}


def _unknown_type(file: Path) -> ForgatherError | None:
    try:
        content = read_object(file)
    except (OSError, ValueError):
        return None
    named = content.get("auto_map")
    if isinstance(named, dict) and "AutoConfig" in named:
        return None
    from transformers import CONFIG_MAPPING, __version__

    kind = content.get("model_type")
    if kind is None:
        hint = "add one that transformers knows, or an auto_map to code in the directory"
        return ForgatherError("has no model_type", file=file, hint=hint)
    if isinstance(kind, str) and kind in CONFIG_MAPPING:
        return None
    problem = f"transformers {__version__} has no model_type {kind!r}, and no auto_map names code in the directory"
    return ForgatherError(problem, file=file, hint="correct model_type, or update transformers")


def directory_problem(directory: Path) -> str | None:
    """Return the reason why a path is not a model directory, as a predicate; None if it is one."""
    if not directory.exists():
        return "does not exist"
    if not directory.is_dir():
        return "is a file, not a model directory"
    return None if (directory / "config.json").exists() else "is not a model directory: it has no config.json"
