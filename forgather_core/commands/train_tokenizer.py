"""`tokenizer train`: train a tokenizer on a dataset project."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..data.corpus import Corpus
from ..data.projects import open_corpus
from ..data.tokenized import no_text
from ..errors import TokenizerError
from ..filesystem.atomic import new_directory
from ..filesystem.paths import expanded, refuse_unsuitable_path
from ..tokenizers.train import ALL_SPECIAL, save_tokenizer, train_bpe

SAMPLE = 2_000_000  # characters encoded to measure the compression


def make_tokenizer(
    project: str,
    config: str | None = None,
    *,
    vocab_size: int,
    directory: Path,
    model_max_length: int = 2048,
    progress: bool = False,
) -> dict[str, Any]:
    """Train a byte-level BPE tokenizer on a dataset and write its directory atomically.

    Args:
        project: A dataset project: a built-in name, or a directory.
        config: A configuration of the project; None selects `default`, or the only one.
        vocab_size: Total number of entries.
        directory: A new or empty directory.
        model_max_length: Maximum length of a text, in tokens.
        progress: Whether to show progress bars.

    Returns:
        The report, as plain data.

    Raises:
        TokenizerError: The directory is not empty, the vocabulary is too small, or the corpus is too small for it.
        DataError: The dataset cannot be read.
        DirectoryError: The directory cannot be written.
    """
    started = time.perf_counter()
    directory = expanded(directory)
    refuse_unsuitable_path(directory)
    _refuse_taken(directory)
    counted = _CountedCorpus(open_corpus(project, config))
    tokenizer = train_bpe(counted.texts(), vocab_size, progress=progress)
    with new_directory(directory, lambda: _refuse_taken(directory)) as staging:
        save_tokenizer(tokenizer, staging, model_max_length=model_max_length)
    tokens = sum(len(encoded.ids) for encoded in tokenizer.encode_batch(counted.sample, add_special_tokens=False))
    size = sum(len(text.encode()) for text in counted.sample)
    return {
        "directory": str(directory),
        "dataset": counted.corpus.name,
        "vocab_size": tokenizer.get_vocab_size(),
        "special_tokens": {token: tokenizer.token_to_id(token) for token in ALL_SPECIAL},
        "model_max_length": model_max_length,
        "documents": counted.documents,
        "characters": counted.characters,
        "bytes_per_token": round(size / tokens, 3),
        "measured_on": len(counted.sample),
        "seconds": round(time.perf_counter() - started, 1),
    }


def _refuse_taken(directory: Path) -> None:
    if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        problem = "already exists and is not an empty directory"
        raise TokenizerError(problem, file=directory, hint="choose another --output-dir, or remove it")


class _CountedCorpus:
    """A corpus that counts documents and characters as they are read, and keeps a sample from the beginning."""

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
            raise no_text(self.corpus)
