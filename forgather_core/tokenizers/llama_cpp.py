"""Determine whether llama.cpp's converter supports a tokenizer, with a remedy if it does not."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..filesystem.strict_json import read_object

# Llama 3's split pattern: contractions, words with up to one preceding character, digits in groups of up to three, runs
# of punctuation, and white space without its last space, which belongs to the next word. llama.cpp's name for it:
LLAMA_CPP_NAME = "llama-bpe"
PRE_TOKENS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}|"
    r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
UNKNOWN = "if its converter knows the tokenizer"
ADD_A_LINE = (
    "if its converter does not know the tokenizer, it prints a chkhsh: add a line for that hash to "
    f'get_vocab_base_pre, with res = "{LLAMA_CPP_NAME}"'
)
# Split pattern of tokenizers trained by Forgather 0.1.0.
_PATTERN_OF_0_1_0 = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"


def tokenizer_conversion(directory: Path | None, name: str) -> tuple[bool, str]:
    """Return whether a tokenizer can be converted to GGUF, and a phrase: the condition, or the reason with a remedy.

    Args:
        directory: Directory of the tokenizer's files; None if unknown.
        name: Name of the tokenizer in messages.
    """
    content = _content(directory)
    model = content.get("model")
    if directory is None or not isinstance(model, Mapping) or (directory / "tokenizer.model").is_file():
        return True, UNKNOWN
    kind = model.get("type")
    if kind != "BPE":
        return (
            False,
            f"it requires a BPE tokenizer or a tokenizer.model, got '{name}' ({kind}): use bpe-2k or bpe-8k",
        )
    if not model.get("merges"):
        return False, f"it requires a tokenizer with merges, and '{name}' has none: use bpe-2k or bpe-8k"
    patterns = _patterns(content.get("pre_tokenizer"))
    if _PATTERN_OF_0_1_0 in patterns:
        remedy = "use a shipped tokenizer or train a new one; existing weights cannot be converted"
        return (
            False,
            f"it does not support the split pattern of '{name}', trained by an earlier version of Forgather: {remedy}",
        )
    return True, ADD_A_LINE if PRE_TOKENS in patterns else UNKNOWN


def _content(directory: Path | None) -> Mapping[str, Any]:
    try:
        return read_object(directory / "tokenizer.json") if directory is not None else {}
    except (OSError, ValueError):
        return {}


def _patterns(pre_tokenizer: Any) -> set[str]:
    """Return the regular expressions by which a pre-tokenizer of tokenizer.json splits text."""
    if not isinstance(pre_tokenizer, Mapping):
        return set()
    parts = pre_tokenizer.get("pretokenizers")
    parts = parts if isinstance(parts, list) else [pre_tokenizer]
    patterns = [part.get("pattern") for part in parts if isinstance(part, Mapping)]
    return {str(pattern.get("Regex")) for pattern in patterns if isinstance(pattern, Mapping)}
