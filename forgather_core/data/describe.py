"""List the configurations of dataset projects, and describe one: columns, counts and first documents."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack, contextmanager
from itertools import islice
from pathlib import Path
from statistics import median
from typing import Any

from ..errors import DataError
from ..tokenizers.lookup import load_tokenizer, resolve_chat_template
from .built_in import BUILT_IN
from .configuration import read_configuration
from .corpus import Document, message_texts
from .projects import PROJECT, configuration_files, data_only, is_built_in, open_corpus
from .tokenized import no_text, token_ids


def list_datasets(project: str | None = None) -> dict[str, Any]:
    """List the configurations of a dataset project.

    Args:
        project: Name of a built-in project, or a directory; None lists all built-in projects.

    Returns:
        The report as plain data. `configurations` has a row per configuration: project, config, and its summary, the
        keys of its file, or the error in it.

    Raises:
        DataError: The project does not exist.
    """
    if project is None:
        rows = [row for name in BUILT_IN for row in _built_in(name)]
    elif is_built_in(project):
        rows = list(_built_in(project))
    elif (count := data_only(project)) is not None:
        rows = [{"project": project, "config": None, "summary": f"{count:,} data file{'s' * (count != 1)}"}]
    else:
        with _project_is_an_argument():
            files = configuration_files(project)
        rows = [{"project": project, "config": name} | _keys(file) for name, file in files.items()]
    return {"project": project, "configurations": rows}


def _built_in(project: str) -> Iterator[dict[str, Any]]:
    for name, config in BUILT_IN[project].items():
        yield {"project": project, "config": name, "summary": config.summary}


def _keys(file: Path) -> dict[str, Any]:
    try:
        return {"file": str(file)} | read_configuration(file).given()
    except DataError as error:
        return {"file": str(file), "error": str(error)}


def describe_dataset(
    project: str,
    config: str | None = None,
    *,
    tokenizer: str = "bpe-8k",
    chat_template: str | None = None,
    examples: int = 3,
    limit: int | str = 1000,
    on_progress: Callable[[int], None] | None = None,
) -> dict[str, Any]:
    """Read documents of a dataset and count them.

    Args:
        project: Name of a built-in project, or a directory.
        config: Configuration of the project; None uses `default`, or the only one.
        tokenizer: Name of a shipped tokenizer, a directory, or a Hub id.
        chat_template: A Jinja file, a shipped template, or the name of a template of the tokenizer; None uses the
            tokenizer's default.
        examples: Number of documents to include in full.
        limit: Number of documents to read, or "all".
        on_progress: Called with the number of documents read so far.

    Returns:
        The report as plain data: dataset, source, tokenizer, columns, counted, examples.

    Raises:
        DataError: The dataset cannot be read, or the tokenizer has no chat template for it.
        TokenizerError: The tokenizer or chat template does not exist.
    """
    most = _limit(limit)
    with _project_is_an_argument():
        corpus = open_corpus(project, config)
        columns = corpus.columns()
        documents = corpus.documents()
    loaded = load_tokenizer(tokenizer)
    if chat_template is not None:
        loaded.tokenizer.chat_template = resolve_chat_template(chat_template, own=loaded.facts.chat_templates)
    lengths: list[int] = []
    described: list[dict[str, Any]] = []
    characters = 0
    with _project_is_an_argument(), ExitStack() as stack:
        if isinstance(documents, Generator):  # at exit, the libraries that it uses may already be unloaded
            stack.callback(documents.close)
        for document in islice(documents, most):
            ids = token_ids(document, loaded.tokenizer)
            lengths.append(len(ids))
            characters += _characters(document)
            if len(described) < examples:
                described.append({"tokens": len(ids), "text": loaded.tokenizer.decode(ids)})
            if on_progress is not None:
                on_progress(len(lengths))
        is_all = next(documents, None) is None
        if not lengths:
            raise no_text(corpus)
    return {
        "dataset": corpus.name,
        "source": corpus.origin,
        "tokenizer": {"name": tokenizer, "vocab_size": loaded.facts.vocab_size},
        "columns": [{"name": name, "type": kind} for name, kind in columns.items()],
        "counted": {
            "documents": len(lengths),
            "all": is_all,
            "characters": characters,
            "tokens": sum(lengths),
            "characters_per_token": round(characters / sum(lengths), 3),
            "shortest": min(lengths),
            "median": int(median(lengths)),
            "longest": max(lengths),
        },
        "examples": described,
    }


@contextmanager
def _project_is_an_argument() -> Iterator[None]:
    """Name the argument PROJECT of the `dataset` commands in errors, instead of the option of other commands."""
    try:
        yield
    except DataError as error:
        if error.option == PROJECT:
            error.option = "PROJECT"
        raise


def _limit(given: int | str) -> int | None:
    """Return the number of documents to read, or None for all."""
    if given == "all":
        return None
    try:
        number = int(given)
    except ValueError:
        raise DataError(f"expected an integer or all, got '{given}'", option="--limit") from None
    if number < 1:
        raise DataError(f"must be at least 1, got {number}", option="--limit")
    return number


def _characters(document: Document) -> int:
    return len(document) if isinstance(document, str) else sum(map(len, message_texts(document)))
