"""Read a dataset configuration: a YAML file for Hugging Face's datasets.

source: text                  # a builder (text, json, csv, parquet, arrow), a directory, or a Hub id
files: corpus/*.txt           # for a builder; relative to this file
name: en                      # configuration of the source, if it has several
split: train
text_column: text             # or messages: COLUMN for chats
shuffle: true                 # or a seed
take: 1000
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from glob import glob
from pathlib import Path
from typing import Any, NamedTuple

from ..errors import DataError, Place, access_hint
from ..filesystem.model_files import read_text
from ..filesystem.paths import expanded
from ..options.spec import did_you_mean
from ..options.yaml_text import YamlError, YamlText, parse_yaml

BUILDERS = ("text", "json", "csv", "parquet", "arrow")
SAVED = ("state.json", "dataset_dict.json")  # either file marks a directory of save_to_disk


@dataclass(frozen=True, kw_only=True)
class DatasetConfiguration:
    """Keys of a dataset configuration.

    Args:
        file: The YAML file.
        source: Name of a builder, a directory, or a Hub id.
        files: Paths or patterns for a builder, relative to the YAML file.
        name: Configuration of the source.
        split: Split to read; None reads `train`, or the only split.
        text_column: Column with texts; None is `text`.
        messages: Column with chats, each a list of {role, content}.
        streaming: Read rows on demand (default) instead of preparing all of them in datasets' cache.
        shuffle: Shuffle rows; an integer is the seed.
        buffer: Size of the shuffle buffer in rows, with `streaming`.
        skip: Number of rows to skip, after shuffling.
        take: Number of rows to read after those; None reads all.
        places: Line and column of each key in the file, for errors.
    """

    file: Path
    source: str
    files: tuple[str, ...] = ()
    name: str | None = None
    split: str | None = None
    text_column: str | None = None
    messages: str | None = None
    streaming: bool | None = None
    shuffle: bool | int = False
    buffer: int | None = None
    skip: int = 0
    take: int | None = None
    places: Mapping[str, Place] = field(default_factory=dict, repr=False, compare=False)

    @property
    def directory(self) -> Path | None:
        """The source directory; None for a builder or a Hub id."""
        directory = self.file.parent / expanded(self.source)
        return directory if self.source not in BUILDERS and directory.is_dir() else None

    @property
    def is_saved(self) -> bool:
        """True if the source is a directory written by save_to_disk."""
        return self.directory is not None and any((self.directory / mark).is_file() for mark in SAVED)

    @property
    def is_remote(self) -> bool:
        """True if the source is a Hub id."""
        return self.source not in BUILDERS and self.directory is None

    @property
    def is_streaming(self) -> bool:
        """True if rows are read on demand."""
        return not self.is_saved and self.streaming is not False

    @property
    def column(self) -> str:
        """The column to read."""
        return self.messages or self.text_column or "text"

    def given(self) -> dict[str, Any]:
        """Return the keys that the file sets and their values, for a report."""
        values = {one.name: (getattr(self, one.name), one.default) for one in fields(self) if one.name in KEYS}
        return {name: value for name, (value, default) in values.items() if value is not default}  # 0 is a seed

    def error(self, key: str, problem: str, *, hint: str | None = None) -> DataError:
        """Return an error about the value of a key, with its place in the file."""
        place: Place = self.places.get(key, {"option": key, "file": self.file})
        return DataError(problem, hint=hint, **place)

    def paths(self) -> list[str]:
        """Return the files that match `files`.

        Raises:
            DataError: A path or pattern matches no file.
        """
        found: list[str] = []
        base = self.file.parent
        for pattern in map(str, map(expanded, self.files)):
            names = [pattern]
            if not (base / pattern).is_file():
                names = sorted(glob(pattern, root_dir=base, recursive=True))  # noqa: PTH207 - Path's takes no absolute ones
            matches = [str(base / name) for name in names if (base / name).is_file()]
            if not matches:
                raise self.error(
                    "files", f"'{pattern}' matches no file relative to {base}", hint="check the path or pattern"
                )
            found += matches
        return found


class _Kind(NamedTuple):
    expected: str
    fits: Callable[[Any], bool]
    takes_text: bool = False


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip())


def _is_integer(value: Any, minimum: int = 0) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= minimum


_TEXT = _Kind("text", _is_text, takes_text=True)
_COUNT = _Kind("an integer above 0", lambda value: _is_integer(value, 1))
KEYS: Mapping[str, _Kind] = {
    "source": _TEXT,
    "files": _Kind(
        "a path or a list of paths",
        lambda value: _is_text(value) or (isinstance(value, list) and bool(value) and all(map(_is_text, value))),
        takes_text=True,
    ),
    "name": _TEXT,
    "split": _TEXT,
    "text_column": _TEXT,
    "messages": _TEXT,
    "streaming": _Kind("true or false", lambda value: isinstance(value, bool)),
    "shuffle": _Kind("true, false or a seed", lambda value: isinstance(value, bool) or _is_integer(value)),
    "buffer": _COUNT,
    "skip": _Kind("an integer of at least 0", _is_integer),
    "take": _COUNT,
}


def read_configuration(file: Path) -> DatasetConfiguration:
    """Read and check a dataset configuration.

    Raises:
        DataError: The YAML is invalid, a key is unknown, has an invalid value or no effect, or files are missing.
    """
    try:
        document = parse_yaml(read_text(file))
    except YamlError as error:
        raise error.at(DataError, file=file) from None
    except (OSError, UnicodeDecodeError) as error:
        problem = f"cannot be read: {getattr(error, 'strerror', None) or error}"
        raise DataError(problem, file=file, hint=access_hint(error)) from None
    keys = _as_written(document) if isinstance(document.value, dict) else None
    if keys is None or "source" not in keys:
        sources = f"{', '.join(BUILDERS)}, a directory or a Hub id"
        raise DataError("requires 'source'", file=file, hint=f"set it to {sources}")
    for key, value in keys.items():
        if key not in KEYS:
            known = f"use {', '.join(KEYS)}"
            raise DataError("unknown key", hint=did_you_mean(str(key), KEYS) or known, **_place(file, document, key))
        if not KEYS[key].fits(value):
            raise DataError(f"expected {KEYS[key].expected}, got {value!r}", **_place(file, document, key))
    if "files" in keys:
        keys["files"] = tuple(keys["files"]) if isinstance(keys["files"], list) else (keys["files"],)
    made = DatasetConfiguration(file=file, places={key: _place(file, document, key) for key in KEYS}, **keys)
    for name, problem, hint in _problems(made):
        raise made.error(name, problem, hint=hint)
    made.paths()
    return made


def _as_written(document: YamlText) -> dict[str, Any]:
    """Return the keys of a configuration. Text values keep their source text: a split may be named 007."""
    keys: dict[str, Any] = dict(document.value)
    for key, value in keys.items():
        if key in KEYS and KEYS[key].takes_text and value is not None:
            if isinstance(value, list):
                keys[key] = [document.written(key, number) or item for number, item in enumerate(value)]
            else:
                keys[key] = document.written(key) or value
    return keys


def _place(file: Path, document: YamlText, key: Any) -> Place:
    """Return the place of a key, or the beginning of the document if it does not have the key."""
    line, column = document.place(str(key))
    return {"option": str(key), "file": file, "line": line, "column": column}


def _problems(made: DatasetConfiguration) -> list[tuple[str, str, str | None]]:
    """Return keys that contradict each other or have no effect, each with the problem and a hint."""
    is_builder = made.source in BUILDERS
    near = did_you_mean(made.source, BUILDERS) if "/" not in made.source else None
    found = [
        (made.is_remote and near, "source", f"there is no '{made.source}'", near),
        (is_builder and not made.files, "source", f"'{made.source}' requires files", "add files: PATTERN"),
        (
            made.files and not is_builder,
            "files",
            f"not supported for source '{made.source}', only for {', '.join(BUILDERS)}",
            "remove it",
        ),
        (
            made.name and (is_builder or made.is_saved),
            "name",
            f"source '{made.source}' has no configurations",
            "remove it",
        ),
        (
            made.text_column and made.messages,
            "messages",
            "not supported together with text_column",
            "keep one of them",
        ),
        (
            made.is_saved and made.streaming is not None,
            "streaming",
            "has no effect on a directory of save_to_disk",
            "remove it",
        ),
        (made.buffer and made.shuffle is False, "buffer", "requires shuffle", "add shuffle: true"),
        (
            made.buffer and not made.is_streaming,
            "buffer",
            "requires streaming; otherwise all rows are shuffled",
            "remove it",
        ),
    ]
    return [(key, problem, hint) for wrong, key, problem, hint in found if wrong]
