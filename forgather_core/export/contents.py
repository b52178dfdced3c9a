"""Plan the contents of a model directory from the resolved model, then write them."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import platform
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from ..errors import DefinitionError
from ..model.hf_config import config_json, eos_entry, generation_config_json
from ..model.manifest import MANIFEST, FileRecord, Manifest, OptionRecord, record
from ..settings.resolved_model import ResolvedModel
from ..tokenizers.chat_templates import turn_ends
from ..tokenizers.lookup import (
    LoadedTokenizer,
    TokenizerFacts,
    load_tokenizer,
    write_tokenizer,
    written_templates,
)
from .licence import licence_files
from .model_card import model_card
from .native import check_native, check_source
from .own_names import class_renames, rename_classes
from .sources import Sources, collect_sources

GENERATED = "generated"
# Files that transformers reads from a tokenizer's directory, besides tokenizer.json.
TOKENIZER_GLOBS = (
    "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "chat_template.jinja",
    "chat_template.json", "additional_chat_templates/*.jinja", "vocab.*", "merges.txt", "*.model", "*.tiktoken",
)  # fmt: skip


@dataclass(frozen=True)
class Contents:
    """The manifest of a written model directory, and notes for the user."""

    manifest: Manifest
    notes: tuple[str, ...]


@dataclass(frozen=True)
class Plan:
    """Checked contents of a model directory, not yet written."""

    resolved: ResolvedModel
    sources: Sources
    loaded: LoadedTokenizer | None
    chat_template: str | None
    names: Mapping[str, str] = field(default_factory=dict)  # new class names by old name

    @property
    def facts(self) -> TokenizerFacts:
        """The facts of the tokenizer, which a plan always has."""
        assert self.resolved.tokenizer is not None
        return self.resolved.tokenizer

    @cached_property
    def manifest(self) -> Manifest:
        """The manifest, without its files."""
        definition = self.resolved.definition
        return Manifest(
            configuration=self._configuration_name(),
            definition={"name": definition.name, "config": definition.config, "model": definition.model},
            model_name=self.resolved.model_name,
            options={name: OptionRecord(item.value, item.origin.label) for name, item in self.resolved.values.items()},
            tokenizer={
                "name": self.resolved.directory.tokenizer,
                "vocab_size": self.facts.vocab_size,
                "sha256": _file_digest(self.facts.source),
                "files": _other_files(self.facts.source),
            },
            chat_template=_digest(self.chat_template),
            native=definition.native if self.resolved.directory.native else None,
            requires=self.sources.requires,
            versions=_versions(),
        )

    def _configuration_name(self) -> str:
        layers = self.resolved.configuration.layers
        last = layers[-1] if layers else None
        is_file = last is not None and last.file is not None and last.label == str(last.file)
        return last.file.name if is_file and last is not None and last.file else self.resolved.configuration.name

    def changed_options(self, old: Manifest) -> list[str]:
        """Return the options that differ from the manifest `old`: "hidden_size (was 256, now 512)"."""
        before: dict[str, Any] = {name: item.value for name, item in old.options.items()}
        now: dict[str, Any] = {name: item.value for name, item in self.manifest.options.items()}
        for name in ("definition", "model_name", "tokenizer", "native"):
            before[name] = _tokenizer_label(getattr(old, name))
            now[name] = _tokenizer_label(getattr(self.manifest, name))
        old_files, new_files = old.tokenizer.get("files"), self.manifest.tokenizer["files"]  # None in older manifests
        if old_files is not None and new_files is not None and before["tokenizer"] == now["tokenizer"]:
            every = old_files.keys() | new_files.keys()
            if files := sorted(file for file in every if old_files.get(file) != new_files.get(file)):
                now["tokenizer"] += f", changed: {', '.join(files)}"
        names = sorted(before.keys() | now.keys())
        changed = [f"{n} (was {before.get(n)}, now {now.get(n)})" for n in names if before.get(n) != now.get(n)]
        return changed + (["chat_template"] if old.chat_template != self.manifest.chat_template else [])

    def changed_sources(self, old: Manifest) -> list[str]:
        """Return the source files that differ from the manifest `old`."""
        now = {file.name: record(file.name, file.text, "").sha256 for file in self.sources.files}
        before = {name: item.sha256 for name, item in old.files.items() if name.endswith(".py")}
        return sorted(name for name in now.keys() | before.keys() if now.get(name) != before.get(name))


def plan_contents(resolved: ResolvedModel) -> Plan:
    """Find and check sources, tokenizer, chat template and options. Writes nothing.

    Raises:
        ExportError: A source file cannot be exported.
        TokenizerError: The tokenizer or chat template does not exist or is invalid.
        ConfigurationError: Options are invalid, or the native class computes a different model.
    """
    definition = resolved.definition
    entries = [definition.config.partition(":")[0], definition.model.partition(":")[0]]
    sources = collect_sources(list(dict.fromkeys(entries)))
    directory = resolved.directory
    loaded = None
    if resolved.tokenizer is None:
        with resolved.errors_at("tokenizer"):
            loaded = load_tokenizer(directory.tokenizer, base=resolved.base_of("tokenizer"))
        resolved = resolved.with_tokenizer(loaded.facts)
    plan = Plan(resolved, sources, loaded, resolved.chat_template_text())
    if resolved.source_config is not None:
        check_source(definition, resolved.source_config)
    if directory.native:
        check_native(resolved)
        return plan
    names = class_renames(resolved, sources)
    return replace(plan, sources=rename_classes(sources, names), names=names)


def write_contents(plan: Plan, directory: Path) -> Contents:
    """Write the files of a model directory into an empty directory.

    Raises:
        DefinitionError: A source file has the name of a file that Forgather writes.
        TokenizerError: The tokenizer cannot be loaded or written.
    """
    resolved = plan.resolved
    definition = resolved.definition
    origins: dict[str, str] = {}
    for source in plan.sources.files:
        _write(directory, source.name, source.text, origins, source.module)
    with resolved.errors_at("tokenizer"):
        loaded = plan.loaded or load_tokenizer(resolved.directory.tokenizer, base=resolved.base_of("tokenizer"))
        written = write_tokenizer(loaded, directory, chat_template=plan.chat_template)
    for name in written:
        origins[name] = f"tokenizer {resolved.directory.tokenizer}"
    stops, unknown = turn_ends(loaded.tokenizer, written_templates(loaded.facts, plan.chat_template))
    source_generation = resolved.source_config.generation if resolved.source_config is not None else None
    # Also in config.json: a model built by `from_config` derives its generation_config.json from it when saved.
    values = dict(resolved.config) | eos_entry(resolved.config.get("eos_token_id"), stops)
    config = config_json(definition, values, native=resolved.directory.native, names=plan.names)
    _write(directory, "config.json", config, origins)
    _write(
        directory,
        "generation_config.json",
        generation_config_json(resolved.token_ids, source_generation, stops),
        origins,
    )
    for name, text in licence_files(definition).items():
        _write(directory, name, text, origins)
    _write(
        directory, "README.md", model_card(plan.manifest, definition, json.loads(config), plan.sources.files), origins
    )
    files = _records(directory, origins)
    manifest = replace(plan.manifest, files=files)
    (directory / MANIFEST).write_text(manifest.to_json(), encoding="utf-8")
    requires = ", ".join(plan.sources.requires)
    notes = (
        (f"the model's source requires these packages besides torch and transformers: {requires}",) if requires else ()
    )
    return Contents(manifest, (*notes, *unknown))


def _write(directory: Path, name: str, data: str | bytes, origins: dict[str, str], origin: str = GENERATED) -> None:
    if name in origins:
        problem = f"a source file cannot be named {name}, because Forgather writes a file of that name"
        raise DefinitionError(problem, hint="rename the source file")
    (directory / name).write_bytes(data if isinstance(data, bytes) else data.encode())
    origins[name] = origin


def _records(directory: Path, origins: Mapping[str, str]) -> dict[str, FileRecord]:
    return {name: record(name, (directory / name).read_bytes(), origins[name]) for name in sorted(origins)}


def _file_digest(directory: Path | str) -> str | None:
    """Return the SHA-256 of a local tokenizer.json, to detect changes; None for a Hub tokenizer."""
    file = Path(directory) / "tokenizer.json"
    return hashlib.sha256(file.read_bytes()).hexdigest() if isinstance(directory, Path) and file.is_file() else None


def _other_files(directory: Path | str) -> dict[str, str] | None:
    """Return the SHA-256 of the other files of a local tokenizer by name; None for a Hub tokenizer."""
    if not isinstance(directory, Path):
        return None
    return {
        path.relative_to(directory).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for pattern in TOKENIZER_GLOBS
        for path in sorted(directory.glob(pattern))
        if path.is_file()
    }


def _digest(text: str | None) -> str | None:
    return None if text is None else hashlib.sha256(text.encode()).hexdigest()


def _tokenizer_label(value: Any) -> str:
    if not isinstance(value, Mapping):
        return str(value)
    digest = value.get("sha256")
    return f"{value['name']}, sha256 {digest[:12]}" if digest else str(value["name"])


def _versions() -> dict[str, str]:
    names = ("forgather", "torch", "transformers", "tokenizers")
    found = {name: _version(name) for name in names}
    return {"python": platform.python_version()} | found


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "unknown"
