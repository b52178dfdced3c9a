"""A tokenizer directory from a dataset project."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..data.corpus import Corpus
from ..data.projects import open_corpus
from ..errors import DataError, TokenizerError
from ..filesystem.atomic import new_directory
from ..filesystem.paths import expanded, refuse_unsuitable_place
from ..tokenizers.train import ALL_SPECIAL, save_tokenizer, train_bpe

SAMPLE = 2_000_000  # characters that are encoded to tell how well it compresses


def make_tokenizer(
    project: str,
    config: str | None = None,
    *,
    vocab_size: int,
    directory: Path,
    model_max_length: int = 2048,
    progress: bool = False,
) -> dict[str, Any]:
    """Train a byte-level BPE tokenizer on a dataset and write its directory, whole or not at all.

    Args:
        project: A dataset project: a built-in name, or a directory.
        config: One of its configurations; None takes `default`, or the only one.
        vocab_size: Entries in all.
        directory: A new one, or an empty one.
        model_max_length: The longest text a model of this tokenizer is made for, in tokens.
        progress: Whether to draw bars.

    Returns:
        The report, as plain data.

    Raises:
        TokenizerError: The directory is in the way, or the vocabulary too small, or the corpus too small for it.
        DataError: The dataset cannot be read.
        DirectoryError: The directory cannot be written.
    """
    started = time.perf_counter()
    directory = expanded(directory)
    refuse_unsuitable_place(directory)
    _refuse_taken(directory)
    seen = _Seen(open_corpus(project, config))
    tokenizer = train_bpe(seen.texts(), vocab_size, progress=progress)
    with new_directory(directory, lambda: _refuse_taken(directory)) as staging:
        save_tokenizer(tokenizer, staging, model_max_length=model_max_length)
    tokens = sum(len(encoded.ids) for encoded in tokenizer.encode_batch(seen.sample, add_special_tokens=False))
    size = sum(len(text.encode()) for text in seen.sample)
    return {
        "directory": str(directory),
        "dataset": seen.corpus.name,
        "entries": tokenizer.get_vocab_size(),
        "special_tokens": {token: tokenizer.token_to_id(token) for token in ALL_SPECIAL},
        "model_max_length": model_max_length,
        "documents": seen.documents,
        "characters": seen.characters,
        "bytes_per_token": round(size / tokens, 3),
        "measured_on": len(seen.sample),
        "seconds": round(time.perf_counter() - started, 1),
    }


def _refuse_taken(directory: Path) -> None:
    if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        raise TokenizerError(f"{directory} is there already: remove it, or name a new directory with -o")


class _Seen:
    """A corpus that counts what is read of it, and keeps its beginning."""

    def __init__(self, corpus: Corpus) -> None:
        self.corpus = corpus
        self.documents = self.characters = 0
        self.sample: list[str] = []

    def texts(self) -> Iterator[str]:
        for text in self.corpus.texts():
            if self.characters < SAMPLE:
                self.sample.append(text)
            self.documents += 1
            self.characters += len(text)
            yield text
        if not self.documents:
            raise DataError(f"the dataset {self.corpus.name} holds no text")
