"""Read a data file or a directory of them as a corpus, without a YAML configuration."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from ..errors import DataError
from ..filesystem.paths import expanded
from .configuration import DatasetConfiguration
from .corpus import Corpus, Document
from .sources import column_types, configured_corpus

BUILDER_OF = {
    ".txt": "text",
    ".md": "text",
    ".json": "json",
    ".jsonl": "json",
    ".parquet": "parquet",
    ".arrow": "arrow",
}
KINDS = "txt, md, json, jsonl, parquet or arrow"
# Conventional column names; the first that exists is read.
TEXT, CHAT = ("text", "content"), ("messages", "conversations")


def data_files(path: Path) -> list[Path]:
    """Return the data file, or the data files below a directory, sorted by name and without hidden ones."""
    if path.is_file():
        return [path] if path.suffix.lower() in BUILDER_OF else []
    found = (file for file in path.rglob("*") if file.suffix.lower() in BUILDER_OF and file.is_file())
    return sorted(file for file in found if not any(part.startswith(".") for part in file.relative_to(path).parts))


def files_corpus(path: Path, option: str) -> Corpus:
    """Return the documents of a file or a directory. A text file is one document; other files have one per row.

    Args:
        path: A file or a directory with data files of one kind.
        option: The option that sets it, for errors.

    Raises:
        DataError: There are files of several kinds. Reading the documents also raises it if no column holds text.
    """
    files = data_files(path)
    builders = {BUILDER_OF[file.suffix.lower()] for file in files}
    if len(builders) > 1:
        kinds = ", ".join(sorted({file.suffix for file in files}))
        hint = "use files of one kind, or write a YAML configuration"
        raise DataError(f"contains files of several kinds ({kinds})", option=option, file=path, hint=hint)
    base = path.parent if path.is_file() else path
    configuration = DatasetConfiguration(
        file=base / path.name,  # paths are relative to the directory of this file
        source=builders.pop(),
        files=tuple(str(file.relative_to(base)) for file in files),
        places={name: {"option": option, "file": path} for name in ("source", "files", "text_column", "messages")},
    )

    def documents() -> Iterator[Document]:
        return configured_corpus(path.name, _with_column(configuration)).documents()

    return Corpus(expanded(path).resolve().name, documents, lambda: column_types(configuration), configuration.given())


def _with_column(configuration: DatasetConfiguration) -> DatasetConfiguration:
    """Return the configuration with the column to read: a conventional name, or the only column of strings."""
    if configuration.source == "text":
        return configuration
    types = column_types(configuration)
    for name in TEXT:
        if name in types:
            return replace(configuration, text_column=name)
    for name in CHAT:
        if name in types:
            return replace(configuration, messages=name)
    strings = [name for name, kind in types.items() if kind == "string"]
    if len(strings) == 1:
        return replace(configuration, text_column=strings[0])
    names = ", ".join(f"'{name}'" for name in (*TEXT, *CHAT))
    problem = f"has none of the columns {names}, nor exactly one column of strings (columns: {', '.join(types)})"
    raise configuration.error("text_column", problem, hint="write a YAML configuration with text_column")
