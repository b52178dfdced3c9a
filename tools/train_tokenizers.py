"""Train the shipped tokenizers on the standard library of the running Python.

    python tools/train_tokenizers.py [DIRECTORY]

The merges depend on the release of Python. The shipped tokenizers were trained with the release that
forgather_core/tokenizers/shipped/README.md names. Do not replace them: existing models depend on their token ids.
"""

from __future__ import annotations

import sys
from itertools import chain
from pathlib import Path

from forgather_core.data.projects import open_corpus
from forgather_core.tokenizers.train import byte_tokenizer, save_tokenizer, train_bpe

SIZES = {"bpe-2k": 2000, "bpe-8k": 8000}
MODEL_MAX_LENGTH = 2048
SHIPPED = Path(__file__).resolve().parent.parent / "forgather_core" / "tokenizers" / "shipped"


def main(directory: Path = SHIPPED) -> None:
    """Train every tokenizer and save it in a subdirectory of `directory`."""
    for name, size in SIZES.items():
        texts = chain.from_iterable(open_corpus("stdlib", config).texts() for config in ("default", "docstrings"))
        tokenizer = train_bpe(texts, size, progress=sys.stderr.isatty())
        save_tokenizer(tokenizer, directory / name, model_max_length=MODEL_MAX_LENGTH)
        print(f"{directory / name}: {size} entries")
    save_tokenizer(byte_tokenizer(), directory / "bytes", model_max_length=MODEL_MAX_LENGTH)
    print(f"{directory / 'bytes'}: 256 bytes and the special tokens")


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
