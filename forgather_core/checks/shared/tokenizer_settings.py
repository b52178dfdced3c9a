"""Settings in the files of a tokenizer: special tokens around a text, and texts that decoding restores."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ...filesystem.strict_json import read_object

FILES = ("tokenizer.json", "tokenizer_config.json", "tokenizer.model", "spiece.model", "vocab.json", "vocab.txt")
TEXTS = {
    "ASCII": "".join(map(chr, range(32, 127))),
    "accents": "Größe, naïve café, Łódź, ñandú, Ελλάδα, Ωμέγα",
    "compatibility characters": "E = mc², ½ cup, ﬁnal, Ｆｕｌｌ, 10\u00a0km, x ≤ 3… ™",
    "emoji": "\U0001f600 \U0001f469\u200d\U0001f680 \U0001f1e9\U0001f1ea \u2764\ufe0f",
    "newlines": "one\ntwo\n\n\nthree\r\nfour\tfive\n",
    "leading spaces": "    four spaces,  two  spaces, one at the end ",
    "digits": "0123456789 3.14159 1,000,000 2026-01-31",
    "code": "def f(x):\n    return {'a': [x ** 2, -1]}  # ok\n\n\tif x != 0x1F: pass\n",
}
_PIECES = (*"aZ09_-.,!?'\"()\n\t éß日本字Жא", "  ", "the", "ing", "\U0001f600", "\r\n", "12345", "self.")
# Normalizers that decoding undoes, or that change no text in NFC.
_REVERSIBLE = {"NFC", "Prepend", "Replace", "Sequence"}


def texts(seed: int) -> dict[str, str]:
    """Return texts by description: the fixed ones, and a random one."""
    chosen = random.Random(seed).choices(_PIECES, k=60)
    return TEXTS | {"random": "".join(chosen)}


def file_content(directory: Path, name: str) -> dict[str, Any]:
    """Return the content of a JSON file of a tokenizer, empty if it does not exist."""
    file = directory / name
    return read_object(file) if file.is_file() else {}


def restores_any_text(tokenizer: Any) -> bool:
    """Return whether a tokenizer has all bytes as tokens and no normalizer that changes the texts."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        return False
    parts = json.loads(backend.to_str())
    vocabulary = tokenizer.get_vocab()
    if any(
        component["type"] not in _REVERSIBLE or _replaces(component) for component in _components(parts["normalizer"])
    ):
        return False
    if parts["model"].get("byte_fallback"):
        return all(f"<0x{byte:02X}>" in vocabulary for byte in range(256))
    from tokenizers import pre_tokenizers

    byte_level = any(component["type"] == "ByteLevel" for component in _components(parts["pre_tokenizer"]))
    return byte_level and vocabulary.keys() >= set(pre_tokenizers.ByteLevel.alphabet())


def adds_a_space(tokenizer: Any) -> bool:
    """Return whether a tokenizer adds a space before a text, so that decoding may return one more or one less."""
    if getattr(tokenizer, "backend_tokenizer", None) is None:
        return False
    parts = json.loads(tokenizer.backend_tokenizer.to_str())
    components = [*_components(parts["pre_tokenizer"]), *_components(parts["normalizer"])]
    return any(
        component.get("add_prefix_space")
        or component.get("prepend_scheme", "never") != "never"
        or component["type"] == "Prepend"
        for component in components
    )


def _replaces(component: Mapping[str, Any]) -> bool:
    """Return whether a normalizer replaces anything but spaces by the mark of SentencePiece."""
    return component["type"] == "Replace" and (component["pattern"], component["content"]) != ({"String": " "}, "▁")


def _components(part: Mapping[str, Any] | None) -> Iterator[Mapping[str, Any]]:
    """Yield a part of tokenizer.json, and its own parts if it is a sequence."""
    if part is None:
        return
    yield part
    for name in ("normalizers", "pretokenizers", "processors"):
        for inner in part.get(name, ()):
            yield from _components(inner)


def expected_special_tokens(
    settings: Mapping[str, Any], content: Mapping[str, Any], bos: str | None, eos: str | None
) -> dict[str, bool | None]:
    """Return whether BOS and EOS must be added to a text, by name; None if the files do not state it.

    Args:
        settings: Content of tokenizer_config.json; `add_bos_token` and `add_eos_token` take precedence.
        content: Content of tokenizer.json; its post-processor applies if neither is set.
        bos, eos: The tokens; None if the tokenizer has none.
    """
    flags = {name: settings.get(f"add_{name.lower()}_token") for name in ("BOS", "EOS")}
    if any(isinstance(flag, bool) for flag in flags.values()):
        # transformers ignores the post-processor if one of them is set.
        return {name: flag if isinstance(flag, bool) else None for name, flag in flags.items()}
    if not content:
        return dict.fromkeys(flags)
    before, after = _template(content.get("post_processor"))
    return {"BOS": bos in before, "EOS": eos in after}


def _template(processor: Mapping[str, Any] | None) -> tuple[list[str], list[str]]:
    """Return the special tokens that a post-processor adds before and after a text."""
    before, after = list[str](), list[str]()
    for component in _components(processor):
        if component["type"] in ("BertProcessing", "RobertaProcessing"):
            before.append(component["cls"][0])
            after.append(component["sep"][0])
        seen = False
        for piece in component.get("single", ()) if component["type"] == "TemplateProcessing" else ():
            if "Sequence" in piece:
                seen = True
            else:
                (after if seen else before).append(piece["SpecialToken"]["id"])
    return before, after
