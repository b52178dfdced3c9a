"""Find a tokenizer by name, directory or Hub id, read its facts, load it, and write its files."""

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
from ..filesystem.model_files import check_files, without_byte_order_marks
from ..filesystem.strict_json import read_object
from ..options.spec import did_you_mean
from ..runtime.extras import install_hint
from ..runtime.quiet import quiet_transformers
from .chat_templates import (
    DEFAULT,
    candidates,
    check_names,
    resolve_chat_template,
    shipped_chat_templates,
    templates_by_name,
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
_UNLIMITED = 10**9  # transformers writes a number of 30 digits if there is no limit
_MACHINE_KEYS = ("name_or_path", "_name_or_path", "is_local", "local_files_only", "tokenizer_file", "vocab_file")


@dataclass(frozen=True)
class TokenizerFacts:
    """Properties of a tokenizer that a model depends on.

    Args:
        name: Name, directory or Hub id as the user wrote it.
        source: Directory of the tokenizer, or its Hub id.
        vocab_size: Highest token id plus one, including added tokens.
        bos_token_id, eos_token_id, pad_token_id, unk_token_id: Ids of the special tokens; None if there is none.
        model_max_length: Longest text in tokens; None without a limit.
        chat_template: Jinja text of the default chat template; None if there is none.
        chat_templates: Texts of all chat templates by name; the default one is `default`.
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
    """Return the directories of the shipped tokenizers by name."""
    root = Path(str(files("forgather_core.tokenizers") / "shipped"))
    return {p.name: p for p in sorted(root.iterdir()) if (p / "tokenizer.json").is_file()}


def quick_facts(spec: str, *, base: Path | None = None) -> TokenizerFacts | None:
    """Return the facts of a local `tokenizer.json` without importing transformers; None if they cannot be determined.

    Args:
        spec: Name of a shipped tokenizer, a directory, or a Hub id.
        base: Directory in which relative paths are searched first, before the working directory.

    Raises:
        TokenizerError: There is no such local tokenizer, and the name is not a Hub id.
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
        return None  # transformers may still load it
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


def load_tokenizer(spec: str, *, base: Path | None = None, option: str | None = "--tokenizer") -> LoadedTokenizer:
    """Load a tokenizer with transformers, without running code of its repository.

    Args:
        spec: Name of a shipped tokenizer, a directory, or a Hub id.
        base: Directory in which relative paths are searched first, before the working directory.
        option: The option that errors name; None for the tokenizer of a model directory.

    Raises:
        TokenizerError: The tokenizer does not exist or cannot be read, or the Hub cannot be reached.
    """
    place = _find(spec, base)
    if isinstance(place, Path):
        check_files(place, TokenizerError)
    from transformers import AutoTokenizer

    try:
        # If the Hub cannot be reached, use its local cache.
        local = isinstance(place, Path) or not hub_answers()
        # transformers warns if the directory's config.json has a model type that it does not know.
        with (
            quiet_transformers(),
            without_byte_order_marks(place) if isinstance(place, Path) else nullcontext(place) as readable,
        ):
            tokenizer = AutoTokenizer.from_pretrained(str(readable), trust_remote_code=False, local_files_only=local)
        templates = templates_by_name(tokenizer.chat_template)
    except Exception as error:
        raise _load_error(spec, place, error, option) from None
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
    """Return the chat templates of a model directory: the tokenizer's, with `chat_template` as default if given."""
    default = {} if chat_template is None else {DEFAULT: chat_template}
    return {**facts.chat_templates, **default}


def write_tokenizer(loaded: LoadedTokenizer, directory: Path, *, chat_template: str | None = None) -> list[str]:
    """Write a tokenizer's files, without paths or names of this machine.

    Args:
        loaded: The tokenizer; it is not changed.
        directory: An existing directory.
        chat_template: Default chat template to write; None writes the tokenizer's default. The tokenizer's other
            templates are always written.

    Returns:
        The written files, relative to the directory; several chat templates are in a subdirectory.

    Raises:
        TokenizerError: The name of a chat template is not valid as a file name.
    """
    tokenizer = loaded.tokenizer
    templates = written_templates(loaded.facts, chat_template)
    check_names(templates)
    before = set(os.listdir(directory))  # noqa: PTH208 - only names are needed
    old_template = tokenizer.chat_template
    try:
        tokenizer.chat_template = templates[DEFAULT] if list(templates) == [DEFAULT] else templates or None
        tokenizer.save_pretrained(str(directory))
    finally:
        tokenizer.chat_template = old_template
    config_file = directory / "tokenizer_config.json"
    config = json.loads(config_file.read_text(encoding="utf-8"))
    _write_json(config_file, {key: config[key] for key in sorted(config) if key not in _MACHINE_KEYS})
    # transformers 5 no longer writes this file; older tools still read it.
    _write_json(directory / "special_tokens_map.json", _special_tokens(tokenizer))
    new = [directory / name for name in set(os.listdir(directory)) - before]  # noqa: PTH208
    files = [file for path in new for file in ([path] if path.is_file() else path.rglob("*")) if file.is_file()]
    return sorted(file.relative_to(directory).as_posix() for file in files)


def _find(spec: str, base: Path | None) -> Path | str:
    """Return the directory of a tokenizer if it exists, else `spec` if it has the form of a Hub id."""
    shipped = shipped_tokenizers()
    if spec in shipped:
        return shipped[spec]
    for path in candidates(spec, base):
        if path.is_dir():
            return path
        if path.exists():
            raise TokenizerError("is a file", option="--tokenizer", file=path, hint="use its directory")
    parts = spec.split("/")
    if len(parts) == 2 and all(parts) and not spec.startswith((".", "~")):
        return spec
    hint = (
        did_you_mean(spec, shipped) or f"use a shipped one ({', '.join(shipped)}), a directory, or a Hub id (org/name)"
    )
    raise TokenizerError(f"'{spec}' does not exist", option="--tokenizer", hint=hint)


def hub_answers() -> bool:
    """Return whether the Hub can be reached. huggingface_hub itself retries for most of a minute."""
    if os.environ.get("HF_HUB_OFFLINE", "").upper() in {"1", "ON", "YES", "TRUE"}:
        return False
    if any(os.environ.get(name) for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy")):
        return True  # a direct connection says nothing about one through the proxy
    address = urlsplit(os.environ.get("HF_ENDPOINT", "https://huggingface.co"))
    try:
        with socket.create_connection((address.hostname or "", address.port or 443), timeout=3):
            return True
    except OSError:
        return False


def _load_error(spec: str, place: Path | str, error: Exception, option: str | None) -> TokenizerError:
    if isinstance(place, Path):
        if not any((place / name).exists() for name in (*FILES, "tokenizer.model", "vocab.json", "vocab.txt")):
            problem, hint = "contains no tokenizer files (tokenizer.json)", "choose another directory"
            return TokenizerError(problem, option=option, file=place, hint=hint)
        reason = first_line(error)
        hint = install_hint(reason).removeprefix("; ") or "correct its files, or choose another directory"
        return TokenizerError(f"cannot be read: {reason}", option=option, file=place, hint=hint)
    if "gated" in str(error).lower():
        return TokenizerError(f"'{spec}' is gated", option=option, hint="log in with 'hf auth login'")
    return TokenizerError(
        f"'{spec}' cannot be loaded from the Hub (offline, misspelt or private)",
        option=option,
        hint=f"use a shipped one ({', '.join(shipped_tokenizers())}) or a directory",
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
