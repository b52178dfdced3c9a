"""Read the rows of a dataset configuration with Hugging Face's datasets; every failure becomes a DataError."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from glob import escape
from types import NoneType
from typing import Any

from ..errors import DataError, first_line
from ..filesystem.model_files import BYTE_ORDER_MARK
from ..options.spec import did_you_mean
from ..runtime.extras import install_hint
from ..tokenizers.lookup import hub_answers
from .configuration import BUILDERS, DatasetConfiguration
from .corpus import Corpus, Document

BUFFER = 10_000  # default size of the shuffle buffer, in rows
SEED = 0
MAX_EMPTY_ROWS = 1_000_000  # consecutive empty rows after which a stream is rejected


def configured_corpus(name: str, configuration: DatasetConfiguration) -> Corpus:
    """Return the documents of a configuration. Nothing is read until they are iterated."""
    return Corpus(
        name,
        documents=lambda: _documents(configuration),
        columns=lambda: column_types(configuration),
        origin=configuration.given(),
    )


def _documents(configuration: DatasetConfiguration) -> Iterator[Document]:
    column, is_chat = configuration.column, configuration.messages is not None
    key = "messages" if is_chat else "text_column"
    empty = 0
    for row in _rows(configuration):
        if column not in row:
            problem = f"there is no column '{column}' (columns: {', '.join(row)})"
            raise configuration.error(key, problem, hint=did_you_mean(column, row) or "use one of these columns")
        value = row[column]
        if isinstance(value, str):
            value = value.removeprefix(BYTE_ORDER_MARK)  # datasets keeps that of a text file
        if value is None or value == [] or (isinstance(value, str) and not value.strip()):
            empty += 1
            if empty == MAX_EMPTY_ROWS:
                problem = f"{empty:,} consecutive rows are empty in '{column}'"
                raise configuration.error(key, problem, hint="use another column")
            continue
        empty = 0
        if is_chat and not isinstance(value, list):
            problem = f"expected lists of {{role, content}} in '{column}', got {type(value).__name__}"
            raise configuration.error(key, problem, hint="use another column, or text_column for texts")
        if is_chat and (invalid := _chat_problem(value)) is not None:
            problem = f"'{column}' of a row: {invalid}"
            raise configuration.error(key, problem, hint="correct the data, or use another column")
        if not is_chat and not isinstance(value, str):
            is_chat_column = isinstance(value, list) and not _chat_problem(value)
            hint = "for chats use 'messages' instead of text_column" if is_chat_column else "use another column"
            raise configuration.error(key, f"expected text in '{column}', got {type(value).__name__}", hint=hint)
        yield value


def _chat_problem(messages: list[Any]) -> str | None:
    """Return the problem of the first invalid message, or None. Content may be null, as in a call of a tool."""
    for number, message in enumerate(messages, 1):
        if not isinstance(message, dict):
            return f"message {number}: expected {{role, content}}, got {type(message).__name__}"
        if message.get("role") is None:  # a column of several rows has null for an absent key
            return f"message {number} has no 'role'"
        if "content" not in message:
            return f"message {number} has no 'content'"
        if not isinstance(message["content"], (str, list, NoneType)):
            return f"message {number}: expected text in 'content', got {type(message['content']).__name__}"
    return None


def column_types(configuration: DatasetConfiguration) -> dict[str, str]:
    """Return the type of each column by name, from the schema or the first row.

    Raises:
        DataError: The rows cannot be read.
    """
    import pyarrow

    with _errors(configuration):
        rows = _split(replace(configuration, shuffle=False, skip=0, take=None))
        known = rows.features
        schema = known.arrow_schema if known else pyarrow.Table.from_pylist([next(iter(rows))]).schema
    return {field.name: _type_name(field.type) for field in schema}


def _type_name(kind: Any) -> str:
    from pyarrow import types

    if types.is_list(kind) or types.is_large_list(kind):
        return f"list of {_type_name(kind.value_type)}"
    if types.is_struct(kind):
        return "{" + ", ".join(kind.field(number).name for number in range(kind.num_fields)) + "}"
    return str(kind).removeprefix("large_")


def _rows(configuration: DatasetConfiguration) -> Iterator[dict[str, Any]]:
    """Yield the rows of a configuration's split.

    Raises:
        DataError: The rows cannot be read, or there are none.
    """
    # The context is entered for each row, so that the libraries are not silenced between rows or after an early stop.
    with _errors(configuration):
        rows = iter(_split(configuration))
        row = next(rows, None)
    if row is None:
        raise _no_rows(configuration)
    while row is not None:
        yield row
        with _errors(configuration):
            row = next(rows, None)


@contextmanager
def _errors(configuration: DatasetConfiguration) -> Iterator[None]:
    """Turn errors of datasets into a DataError, and silence its logging and progress bars."""
    with _silent():
        try:
            yield
        except DataError:
            raise
        except Exception as error:  # the errors of datasets have no common base class
            if StopIteration in (type(error), type(error.__cause__)):  # raised for an empty JSON file
                raise _no_rows(configuration) from None
            raise _unreadable(configuration, error) from None


def _split(configuration: DatasetConfiguration) -> Any:
    rows = _select_split(configuration, _load(configuration))
    if configuration.shuffle is not False:
        seed = SEED if configuration.shuffle is True else configuration.shuffle
        more = {"buffer_size": configuration.buffer or BUFFER} if configuration.is_streaming else {}
        rows = rows.shuffle(seed=seed, **more)
    if configuration.skip:
        rows = rows.skip(configuration.skip)
    return rows if configuration.take is None else rows.take(configuration.take)


def _load(configuration: DatasetConfiguration) -> Any:
    """Return a dataset, or datasets by split."""
    import datasets

    source, streaming = configuration.source, configuration.is_streaming
    if source in BUILDERS:
        more = {"sample_by": "document"} if source == "text" else {}
        files = {configuration.split or "train": [escape(path) for path in configuration.paths()]}
        return datasets.load_dataset(source, data_files=files, streaming=streaming, **more)
    if configuration.is_saved:
        return datasets.load_from_disk(str(configuration.directory))
    if (
        configuration.is_remote and not datasets.config.HF_HUB_OFFLINE and not hub_answers()
    ):  # datasets would retry for a long time
        problem = f"there is no directory '{source}', and the Hub cannot be reached"
        raise configuration.error("source", problem, hint="set HF_HUB_OFFLINE=1 to use the local cache")
    return datasets.load_dataset(str(configuration.directory or source), name=configuration.name, streaming=streaming)


def _select_split(configuration: DatasetConfiguration, loaded: Any) -> Any:
    if not isinstance(loaded, dict) and loaded.split is None:  # saved without the name of a split
        if configuration.split is not None:
            raise configuration.error("split", f"'{configuration.source}' has no splits", hint="remove it")
        return loaded
    known = loaded if isinstance(loaded, dict) else {str(loaded.split): loaded}
    default = "train" if "train" in known or len(known) > 1 else next(iter(known))
    split = configuration.split or default
    if split not in known:
        problem = f"there is no '{split}' (splits: {', '.join(known)})"
        raise configuration.error("split", problem, hint=did_you_mean(split, known) or "use one of these splits")
    return known[split]


@contextmanager
def _silent() -> Iterator[None]:
    """Silence logging and progress bars of datasets and huggingface_hub: errors carry the reason."""
    import datasets
    from huggingface_hub import utils as hub

    drawing = [library for library in (datasets, hub) if not library.are_progress_bars_disabled()]
    loggers = [logging.getLogger(name) for name in ("datasets", "huggingface_hub")]
    before = [logger.level for logger in loggers]
    for library in drawing:
        library.disable_progress_bars()
    for logger in loggers:
        logger.setLevel(logging.CRITICAL + 1)
    try:
        yield
    finally:
        for logger, level in zip(loggers, before, strict=True):
            logger.setLevel(level)
        for library in drawing:
            library.enable_progress_bars()


def _source_error(configuration: DatasetConfiguration, problem: str, *, hint: str | None = None) -> DataError:
    """Return an error about the source of the rows; `problem` is a predicate whose subject is the source."""
    if not configuration.files:
        return configuration.error("source", f"'{configuration.source}' {problem}", hint=hint)
    subject = f"'{configuration.files[0]}'" if len(configuration.files) == 1 else "one of the files"
    return configuration.error("files", f"{subject} {problem}", hint=hint)


def _no_rows(configuration: DatasetConfiguration) -> DataError:
    skipped = f" after the {configuration.skip} of 'skip'" if configuration.skip else ""
    return _source_error(configuration, f"has no rows{skipped}", hint="lower skip" if skipped else "use other data")


def _unreadable(configuration: DatasetConfiguration, error: Exception) -> DataError:
    if type(error).__name__ == "DatasetGenerationError" and isinstance(error.__cause__, Exception):
        error = error.__cause__
    reason = first_line(error)
    install = install_hint(reason).removeprefix("; ")
    hint = install or f"correct the {'files' if configuration.files else 'source'}, or choose another"
    return _source_error(configuration, f"cannot be read: {reason}", hint=hint)
