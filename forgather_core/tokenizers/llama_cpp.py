"""Report whether llama.cpp's converter takes a tokenizer, and what to do where it does not by itself."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..filesystem.strict_json import read_object

# Llama 3's split pattern: contractions, words with one character before them, digits in groups of up to three, runs of
# punctuation, and white space whose last space belongs to the next word. llama.cpp implements it under this name.
LLAMA_CPP_NAME = "llama-bpe"
PRE_TOKENS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}|"
    r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
UNKNOWN = "if its converter knows the tokenizer"
ADD_A_LINE = (
    "where its converter does not know the tokenizer, it prints a chkhsh: add a line for that hash to "
    f'get_vocab_base_pre, with res = "{LLAMA_CPP_NAME}"'
)
# The pattern of the tokenizers that Forgather 0.1.0 made.
_FORMER = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"


def tokenizer_conversion(directory: Path | None, name: str) -> tuple[bool, str]:
    """Return whether a tokenizer can be converted to GGUF, and how, or why not.

    Args:
        directory: The directory with its files; None if it is not known.
        name: Its name in the message.
    """
    content = _content(directory)
    model = content.get("model")
    if directory is None or not isinstance(model, Mapping) or (directory / "tokenizer.model").is_file():
        return True, UNKNOWN
    kind = model.get("type")
    if kind != "BPE":
        return (
            False,
            f"it requires a BPE tokenizer or a tokenizer.model, and '{name}' is a {kind}: take bpe-2k or bpe-8k",
        )
    if not model.get("merges"):
        return False, f"it requires a tokenizer with merges, and '{name}' has none: take bpe-2k or bpe-8k"
    patterns = _patterns(content.get("pre_tokenizer"))
    if _FORMER in patterns:
        ways = "take a shipped tokenizer or train one again; existing weights cannot be converted"
        return False, f"it lacks the split pattern of '{name}', which an earlier Forgather made: {ways}"
    return True, ADD_A_LINE if PRE_TOKENS in patterns else UNKNOWN


def _content(directory: Path | None) -> Mapping[str, Any]:
    try:
        return read_object(directory / "tokenizer.json") if directory is not None else {}
    except (OSError, ValueError):
        return {}


def _patterns(pre_tokenizer: Any) -> set[str]:
    """The regular expressions at which a pre-tokenizer of tokenizer.json splits text."""
    if not isinstance(pre_tokenizer, Mapping):
        return set()
    parts = pre_tokenizer.get("pretokenizers")
    parts = parts if isinstance(parts, list) else [pre_tokenizer]
    found = [part.get("pattern") for part in parts if isinstance(part, Mapping)]
    return {str(pattern.get("Regex")) for pattern in found if isinstance(pattern, Mapping)}
