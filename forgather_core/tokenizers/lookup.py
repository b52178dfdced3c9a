"""The tokenizer of a model directory: found by name, directory or hub id; its facts read; its files written."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from ..errors import TokenizerError, first_line
from ..filesystem.model_files import check_files, without_marks
from ..filesystem.strict_json import read_object
from ..options.spec import did_you_mean
from ..runtime.extras import install_hint
from ..runtime.quiet import quiet_transformers
from .chat_templates import (
    DEFAULT,
    candidates,
    check_names,
    named,
    resolve_chat_template,
    shipped_chat_templates,
    templates_in,
)

__all__ = [
    "LoadedTokenizer",
    "TokenizerFacts",
    "hub_answers",
    "load_tokenizer",
    "quick_facts",
    "resolve_chat_template",
    "shipped_chat_templates",
    "shipped_tokenizers",
    "write_tokenizer",
    "written_templates",
]

FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja")
SPECIAL_TOKENS = ("bos_token", "eos_token", "unk_token", "pad_token", "sep_token", "cls_token", "mask_token")
_UNLIMITED = 10**9  # transformers writes a number of thirty digits where there is no limit
_OF_THIS_MACHINE = ("name_or_path", "_name_or_path", "is_local", "local_files_only", "tokenizer_file", "vocab_file")


@dataclass(frozen=True)
class TokenizerFacts:
    """What a model takes from its tokenizer.

    Args:
        name: What the user asked for.
        source: The directory it lies in, or its hub id.
        vocab_size: The highest token id plus one: added tokens are counted.
        model_max_length: The longest text in tokens, None without a limit.
        chat_template: The Jinja text of the default template, None without one.
        chat_templates: The text of every template by name; the default one is `default`.
    """

    name: str
    source: Path | str
    vocab_size: int
    bos_token_id: int | None
    eos_token_id: int | None
    pad_token_id: int | None
    unk_token_id: int | None
    model_max_length: int | None
    chat_template: str | None
    chat_templates: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class LoadedTokenizer:
    """A transformers tokenizer and its facts."""

    tokenizer: Any
    facts: TokenizerFacts


def shipped_tokenizers() -> dict[str, Path]:
    """The directories of the shipped tokenizers, by name."""
    root = Path(str(files("forgather_core.tokenizers") / "shipped"))
    return {p.name: p for p in sorted(root.iterdir()) if (p / "tokenizer.json").is_file()}


def quick_facts(spec: str, *, base: Path | None = None) -> TokenizerFacts | None:
    """The facts of a tokenizer that lies here as `tokenizer.json`, without transformers; None where that is not enough.

    Raises:
        TokenizerError: There is no such tokenizer here, and the name cannot be a hub's.
    """
    place = _find(spec, base)
    if isinstance(place, Path):
        check_files(place, TokenizerError)
    if isinstance(place, str) or not (place / "tokenizer.json").is_file():
        return None
    try:
        content = read_object(place / "tokenizer.json")
        config = read_object(place / "tokenizer_config.json")
        ids = dict(content["model"]["vocab"]) | {item["content"]: item["id"] for item in content["added_tokens"]}
        special = {name: _token_text(config.get(name)) for name in SPECIAL_TOKENS}
        templates = templates_in(place, config)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None  # transformers may know better
    if any(text is not None and text not in ids for text in special.values()):
        return None
    return TokenizerFacts(
        name=spec,
        source=place,
        vocab_size=max(ids.values()) + 1,
        model_max_length=_limit(config.get("model_max_length")),
        chat_template=templates.get(DEFAULT),
        chat_templates=templates,
        **{f"{name}_id": ids.get(special[name] or "") for name in ("bos_token", "eos_token", "pad_token", "unk_token")},
    )


def load_tokenizer(spec: str, *, base: Path | None = None) -> LoadedTokenizer:
    """Load a tokenizer with transformers. Code of a tokenizer's repository is never run.

    Args:
        spec: A shipped name, a directory, or a hub id.
        base: Where relative directories start, before the working directory.

    Raises:
        TokenizerError: There is none, it cannot be read, or the hub cannot be reached.
    """
    place = _find(spec, base)
    if isinstance(place, Path):
        check_files(place, TokenizerError)
    from transformers import AutoTokenizer

    try:
        # Without a hub, one that was fetched earlier still loads.
        local = isinstance(place, Path) or not hub_answers()
        # It warns of the type of a model that stands beside the tokenizer, and is none of its own.
        with quiet_transformers(), without_marks(place) if isinstance(place, Path) else nullcontext(place) as readable:
            tokenizer = AutoTokenizer.from_pretrained(str(readable), trust_remote_code=False, local_files_only=local)
        templates = named(tokenizer.chat_template)
    except Exception as error:
        raise TokenizerError(_why(spec, place, error)) from None
    ids = {f"{n}_id": getattr(tokenizer, f"{n}_id") for n in ("bos_token", "eos_token", "pad_token", "unk_token")}
    facts = TokenizerFacts(
        name=spec,
        source=place,
        vocab_size=max(tokenizer.get_vocab().values()) + 1,
        model_max_length=_limit(tokenizer.model_max_length),
        chat_template=templates.get(DEFAULT),
        chat_templates=templates,
        **ids,
    )
    return LoadedTokenizer(tokenizer, facts)


def written_templates(facts: TokenizerFacts, chat_template: str | None = None) -> dict[str, str]:
    """Return the chat templates of a model directory: the tokenizer's, with another default one if it is given."""
    given = {} if chat_template is None else {DEFAULT: chat_template}
    return {**facts.chat_templates, **given}


def write_tokenizer(loaded: LoadedTokenizer, directory: Path, *, chat_template: str | None = None) -> list[str]:
    """Write a tokenizer's files; nothing in them tells of this machine.

    Args:
        loaded: The tokenizer; it is not changed.
        directory: An existing directory.
        chat_template: The default template to write; None writes the tokenizer's own, if it has one. Templates of
            other names are written as well.

    Returns:
        The paths of the files in the directory: several chat templates have a directory of their own.

    Raises:
        TokenizerError: The name of a chat template cannot be the name of a file.
    """
    tokenizer = loaded.tokenizer
    templates = written_templates(loaded.facts, chat_template)
    check_names(templates)
    before = set(os.listdir(directory))  # noqa: PTH208 - names are all that is needed
    old_template = tokenizer.chat_template
    try:
        tokenizer.chat_template = templates[DEFAULT] if list(templates) == [DEFAULT] else templates or None
        tokenizer.save_pretrained(str(directory))
    finally:
        tokenizer.chat_template = old_template
    config_file = directory / "tokenizer_config.json"
    config = json.loads(config_file.read_text(encoding="utf-8"))
    _write_json(config_file, {key: config[key] for key in sorted(config) if key not in _OF_THIS_MACHINE})
    # transformers 5 no longer writes this file; older tools still look for it.
    _write_json(directory / "special_tokens_map.json", _special_tokens(tokenizer))
    made = [directory / name for name in set(os.listdir(directory)) - before]  # noqa: PTH208
    files = [file for path in made for file in ([path] if path.is_file() else path.rglob("*")) if file.is_file()]
    return sorted(file.relative_to(directory).as_posix() for file in files)


def _find(spec: str, base: Path | None) -> Path | str:
    """A directory that exists, or a text that may be a hub id."""
    shipped = shipped_tokenizers()
    if spec in shipped:
        return shipped[spec]
    for path in candidates(spec, base):
        if path.is_dir():
            return path
        if path.exists():
            raise TokenizerError(f"tokenizer: {path} is a file; name its directory")
    parts = spec.split("/")
    if len(parts) == 2 and all(parts) and not spec.startswith((".", "~")):
        return spec
    ways = f": take a shipped one ({', '.join(shipped)}), a directory, or org/name of a hub"
    hint = did_you_mean(spec, shipped) or ways
    raise TokenizerError(f"tokenizer: there is no '{spec}'{hint}")


def hub_answers() -> bool:
    """Whether the hub can be reached at all: its own library would try again for most of a minute."""
    if os.environ.get("HF_HUB_OFFLINE", "").upper() in {"1", "ON", "YES", "TRUE"}:
        return False
    if any(os.environ.get(name) for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy")):
        return True  # only the proxy knows
    address = urlsplit(os.environ.get("HF_ENDPOINT", "https://huggingface.co"))
    try:
        with socket.create_connection((address.hostname or "", address.port or 443), timeout=3):
            return True
    except OSError:
        return False


def _why(spec: str, place: Path | str, error: Exception) -> str:
    if isinstance(place, Path):
        if not any((place / name).exists() for name in (*FILES, "tokenizer.model", "vocab.json", "vocab.txt")):
            return f"tokenizer: the directory {place} holds no tokenizer files (tokenizer.json)"
        reason = first_line(error)
        return f"tokenizer: {place} cannot be read: {reason}{install_hint(reason)}"
    shipped = ", ".join(shipped_tokenizers())
    reason = "is gated: log in with 'hf auth login'" if "gated" in str(error).lower() else "cannot be had from the hub"
    return (
        f"tokenizer: '{spec}' {reason} (offline, misspelt or private); take a shipped one ({shipped}) "
        "or a directory with --tokenizer"
    )


def _token_text(token: Any) -> str | None:
    return token.get("content") if isinstance(token, dict) else token


def _limit(length: Any) -> int | None:
    return int(length) if isinstance(length, (int, float)) and 0 < length < _UNLIMITED else None


def _special_tokens(tokenizer: Any) -> dict[str, Any]:
    tokens = {name: getattr(tokenizer, name, None) for name in SPECIAL_TOKENS}
    named = {name: str(token) for name, token in tokens.items() if token is not None}
    extra = [token for token in tokenizer.all_special_tokens if token not in named.values()]
    return named | ({"additional_special_tokens": extra} if extra else {})


def _write_json(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
