"""Makes the shipped tokenizers anew, from the standard library of the Python that runs this.

    python tools/train_tokenizers.py [DIRECTORY]

Other releases of Python have other sources, and so give slightly other merges: the shipped ones were made with the
release that forgather_core/tokenizers/shipped/README.md names, and stay as they are so that models keep their meaning.
"""

from __future__ import annotations

import sys
from itertools import chain
from pathlib import Path

from forgather_core.data.projects import open_corpus
from forgather_core.tokenizers.train import byte_tokenizer, save_tokenizer, train_bpe

SIZES = {"bpe-2k": 2000, "bpe-8k": 8000}
MODEL_MAX_LENGTH = 2048
HERE = Path(__file__).resolve().parent.parent / "forgather_core" / "data" / "tokenizers"


def main(directory: Path = HERE) -> None:
    """Train and write every tokenizer below `directory`."""
    for name, size in SIZES.items():
        texts = chain.from_iterable(open_corpus("stdlib", config).texts() for config in ("default", "docstrings"))
        tokenizer = train_bpe(texts, size, progress=sys.stderr.isatty())
        save_tokenizer(tokenizer, directory / name, model_max_length=MODEL_MAX_LENGTH)
        print(f"{directory / name}: {size} entries")
    save_tokenizer(byte_tokenizer(), directory / "bytes", model_max_length=MODEL_MAX_LENGTH)
    print(f"{directory / 'bytes'}: 256 bytes and the special tokens")


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
