"""Dataset projects: where `test` takes its text from.

A project is a built-in name (`stdlib`), or a directory with one or more YAML configurations over Hugging Face's
datasets:

    source: text                  # a builder (text, json, csv, parquet, arrow), a directory, or a hub id
    files: corpus/*.txt           # for a builder; relative to the configuration
    name: en                      # the source's own configuration, if it has several
    split: train
    text_column: text
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import DataError
from ..option_spec import did_you_mean
from ..paths import expanded
from ..yaml_text import YamlError, parse_yaml
from .standard_library import standard_library_docstrings, standard_library_texts

BUILT_IN: dict[str, dict[str, Callable[[], Iterator[str]]]] = {
    "stdlib": {"default": standard_library_texts, "docstrings": standard_library_docstrings}
}
BUILDERS = ("text", "json", "csv", "parquet", "arrow")
KEYS = ("source", "files", "name", "split", "text_column")
DEFAULT = "default"


@dataclass(frozen=True)
class Corpus:
    """Documents of a dataset project.

    Args:
        name: Project and configuration, for the report.
        texts: Starts from the first document each time it is called.
    """

    name: str
    texts: Callable[[], Iterator[str]]


def open_corpus(project: str, config: str | None = None) -> Corpus:
    """The documents of a dataset project.

    Args:
        project: A built-in name, or a directory.
        config: One of its configurations; None takes `default`, or the only one.

    Raises:
        DataError: There is no such project or configuration, or its configuration is wrong. Reading the texts raises
            it too, where files or columns are missing.
    """
    if project in BUILT_IN and not Path(project).is_dir():
        chosen = _choose(BUILT_IN[project], config, project)
        return Corpus(f"{project}/{chosen}", BUILT_IN[project][chosen])
    directory = expanded(project)
    if not directory.is_dir():
        built_in = ", ".join(BUILT_IN)
        hint = did_you_mean(project, BUILT_IN)
        raise DataError(f"--dataset-project: '{project}' is no directory and no built-in project ({built_in}){hint}")
    folders = (directory, directory / "configs")
    found = [path for folder in folders for pattern in ("*.yaml", "*.yml") for path in folder.glob(pattern)]
    if not found:
        raise DataError(f"--dataset-project: {directory} holds no YAML configuration, for example default.yaml")
    files = {path.stem: path for path in sorted(found, key=lambda path: path.stem)}
    chosen = _choose(files, config, str(directory))
    file = files[chosen]
    keys = _read(file)
    return Corpus(f"{directory.resolve().name}/{chosen}", lambda: _rows(file, keys))


def _choose(known: dict[str, Any], config: str | None, project: str) -> str:
    if config is None:
        if DEFAULT in known or len(known) == 1:
            return DEFAULT if DEFAULT in known else next(iter(known))
        raise DataError(f"--dataset-config: {project} has several configurations; name one of {', '.join(known)}")
    if config not in known:
        raise DataError(
            f"--dataset-config: {project} has no configuration '{config}'{did_you_mean(config, known)} "
            f"(it has {', '.join(known)})"
        )
    return config


def _read(file: Path) -> dict[str, Any]:
    try:
        document = parse_yaml(file.read_text(encoding="utf-8"))
    except YamlError as error:
        raise DataError(f"{file}:{error.line}:{error.column}: {error.problem}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{file} cannot be read: {error}") from None
    keys = document.value
    if not isinstance(keys, dict) or "source" not in keys:
        ways = f"{', '.join(BUILDERS)}, a directory or a hub id"
        raise DataError(f"{file}: a dataset configuration needs 'source': {ways}")
    if unknown := [key for key in keys if key not in KEYS]:
        line, column = document.place(str(unknown[0]))
        raise DataError(f"{file}:{line}:{column}: {unknown[0]}: no such key{did_you_mean(str(unknown[0]), KEYS)}")
    return keys


def _rows(file: Path, keys: dict[str, Any]) -> Iterator[str]:
    """The texts of a configuration, as datasets streams them."""
    rows = _load(file, keys)
    column = keys.get("text_column", "text")
    for row in rows:
        if column not in row:
            hint = did_you_mean(column, row)
            raise DataError(f"{file}: text_column: there is no column '{column}'{hint} (columns: {', '.join(row)})")
        if not isinstance(row[column], str):
            raise DataError(f"{file}: text_column: '{column}' holds {type(row[column]).__name__}, not text")
        if row[column].strip():
            yield row[column]


def _load(file: Path, keys: dict[str, Any]) -> Any:
    from datasets import load_dataset, load_from_disk

    source, split = str(keys["source"]), keys.get("split", "train")
    if (source in BUILDERS) != ("files" in keys):
        wanted = "needs 'files'" if source in BUILDERS else f"takes no 'files': that is for {', '.join(BUILDERS)}"
        raise DataError(f"{file}: source '{source}' {wanted}")
    directory = file.parent / expanded(source)
    try:
        if source in BUILDERS:
            more = {"sample_by": "document"} if source == "text" else {}
            files = _files(file, keys["files"])
            return load_dataset(source, data_files={split: files}, split=split, streaming=True, **more)
        if directory.is_dir():
            if any((directory / mark).is_file() for mark in ("state.json", "dataset_dict.json")):
                saved = load_from_disk(str(directory))
                return saved[split] if isinstance(saved, dict) else saved
            source = str(directory)
        return load_dataset(source, name=keys.get("name"), split=split, streaming=True)
    except DataError:
        raise
    except Exception as error:  # datasets has no common base of its errors
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise DataError(f"{file}: '{source}' cannot be loaded: {reason}") from None


def _files(file: Path, patterns: Any) -> list[str]:
    patterns = patterns if isinstance(patterns, list) else [patterns]
    found: list[str] = []
    for pattern in map(str, patterns):
        base = expanded(pattern)
        matches = [base] if base.is_absolute() and base.is_file() else sorted(file.parent.glob(pattern))
        if not matches:
            raise DataError(f"{file}: files: there is no '{pattern}' beside it")
        found += [str(path) for path in matches]
    return found
