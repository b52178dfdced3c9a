"""Train and save byte-level BPE and byte tokenizers, such as the shipped ones."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ..errors import TokenizerError
from .llama_cpp import PRE_TOKENS

SPECIAL_TOKENS = {
    "bos_token": "<|BOS|>",
    "pad_token": "<|PAD|>",
    "eos_token": "<|EOS|>",
    "unk_token": "<|UNK|>",
}
CHAT_TOKENS = ("<|im_start|>", "<|im_end|>")
ALL_SPECIAL = (*SPECIAL_TOKENS.values(), *CHAT_TOKENS)
MIN_VOCAB_SIZE = 256 + len(ALL_SPECIAL)

# ignore_merges: a word in the vocabulary is one token, as llama.cpp does for this pattern. All bytes are in the
# vocabulary, so no byte fallback is needed.
_BPE: dict[str, Any] = {"ignore_merges": True, "byte_fallback": False}


def train_bpe(texts: Iterable[str], vocab_size: int, *, progress: bool = False) -> Any:
    """Train a byte-level BPE tokenizer (arXiv:1508.07909, on bytes).

    All 256 bytes are tokens, so every text can be encoded; it decodes to its NFC form. BOS is added before each text.

    Args:
        texts: The documents of the corpus.
        vocab_size: Size of the vocabulary: the special tokens first, then bytes, then merges.
        progress: Show a progress bar.

    Returns:
        A `tokenizers.Tokenizer`.

    Raises:
        TokenizerError: `vocab_size` is too small for bytes and special tokens, or the corpus is too small for it.
    """
    from tokenizers import models, pre_tokenizers, trainers

    if vocab_size < MIN_VOCAB_SIZE:
        problem = f"must be at least {MIN_VOCAB_SIZE} (256 bytes and the special tokens), got {vocab_size}"
        raise TokenizerError(problem, option="--vocab-size")
    tokenizer = _byte_level(models.BPE(**_BPE))
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=list(ALL_SPECIAL),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=progress,
    )
    tokenizer.train_from_iterator(texts, trainer)
    if tokenizer.get_vocab_size() != vocab_size:
        raise TokenizerError(
            f"the corpus is too small for {vocab_size} entries: it yields {tokenizer.get_vocab_size()}",
            hint="use a larger corpus or a smaller --vocab-size",
        )
    return _with_bos(tokenizer)


def byte_tokenizer() -> Any:
    """Return a `tokenizers.Tokenizer` with the special tokens and the 256 bytes as its vocabulary, without merges."""
    from tokenizers import AddedToken, models, pre_tokenizers

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: index for index, token in enumerate([*ALL_SPECIAL, *alphabet])}
    tokenizer = _byte_level(models.BPE(vocab=vocabulary, merges=[], **_BPE))
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in ALL_SPECIAL])
    return _with_bos(tokenizer)


def _byte_level(model: Any) -> Any:
    from tokenizers import Regex, Tokenizer, decoders, normalizers, pre_tokenizers

    tokenizer = Tokenizer(model)
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PRE_TOKENS), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def _with_bos(tokenizer: Any) -> Any:
    from tokenizers import processors

    bos = SPECIAL_TOKENS["bos_token"]
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{bos} $A", pair=f"{bos} $A {bos}:1 $B:1", special_tokens=[(bos, tokenizer.token_to_id(bos))]
    )
    return tokenizer


def save_tokenizer(tokenizer: Any, directory: Path, *, model_max_length: int) -> None:
    """Save a tokenizer for Hugging Face's AutoTokenizer.

    Args:
        tokenizer: A `tokenizers.Tokenizer` with the special tokens of `SPECIAL_TOKENS` and `CHAT_TOKENS`.
        directory: The directory; created if missing.
        model_max_length: Maximum length of a text in tokens, written to tokenizer_config.json.
    """
    directory.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(directory / "tokenizer.json"))
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        **SPECIAL_TOKENS,
        "additional_special_tokens": list(CHAT_TOKENS),
        "clean_up_tokenization_spaces": False,
        "model_max_length": model_max_length,
        "padding_side": "left",  # required for batched generation; training masks padding on either side
    }
    _write_json(directory / "tokenizer_config.json", config)
    _write_json(
        directory / "special_tokens_map.json", {**SPECIAL_TOKENS, "additional_special_tokens": list(CHAT_TOKENS)}
    )


def _write_json(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
