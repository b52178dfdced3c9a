"""The resolved options of a model, the facts of its tokenizer and its configuration values, as plain data."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..definitions import contracts
from ..definitions.definition import ModelDefinition
from ..errors import ConfigurationError, Place, TokenizerError
from ..filesystem.printable import plain_copy
from ..options.shared import BuildOptions, DirectoryOptions
from ..options.spec import specs_of
from ..tokenizers.chat_templates import resolve_chat_template
from ..tokenizers.lookup import TokenizerFacts
from .layers import Configuration

if TYPE_CHECKING:
    from .source_config import SourceConfig

DERIVED = "derived"
TOKENIZER = "tokenizer"
TOKEN_IDS = ("bos_token_id", "eos_token_id", "pad_token_id")


@dataclass(frozen=True)
class Origin:
    """The source of a value: `label` for display, `place` for errors."""

    label: str
    place: Place
    base: Path | None = None  # the directory that relative paths are resolved against
    rank: int = 0  # rank of its layer; higher ranks override lower ones


@dataclass(frozen=True)
class ResolvedValue:
    """A value and its origin."""

    value: Any
    origin: Origin


@dataclass(frozen=True, repr=False)
class ResolvedModel:
    """Everything that determines a model, without torch or transformers. `resolve` creates it for all commands.

    Args:
        configuration: The configuration that was resolved.
        options: The options of the definition, an instance of `definition.options`, as set.
        directory: The options of the model directory: its name, path and tokenizer.
        build: The options that control how the model is built.
        origins: The origin of every option, by name.
        tokenizer: Facts of the tokenizer; None if they require transformers or the Hub (see `with_tokenizer`).
        source_config: The values taken from a model directory, if `from_config` is set.
        project: The project directory, if the model was resolved for one.
    """

    configuration: Configuration
    options: Any
    directory: DirectoryOptions
    build: BuildOptions
    origins: Mapping[str, Origin]
    tokenizer: TokenizerFacts | None = None
    source_config: SourceConfig | None = None
    project: Path | None = None

    @property
    def definition(self) -> ModelDefinition:
        """The model definition that the configuration extends."""
        return self.configuration.definition

    @property
    def model_name(self) -> str:
        """The name of the model: the option, else the lower-case name of the source config, YAML file or preset."""
        named = self.source_config or self.configuration
        return self.directory.model_name or named.default_model_name

    @property
    def notes(self) -> Mapping[str, Any]:
        """The notes of the configuration; empty if the options come from a source config."""
        return self.configuration.notes if self.source_config is None else {}

    @property
    def expected_parameters(self) -> int | None:
        """The number of parameters that the configuration states; None if flags set an option that determines it."""
        names = {name for name in self.origins if hasattr(self.options, name)}
        if getattr(self.options, "vocab_size", None) is None:
            names.add("tokenizer")
        flags = any(self.origins[name].label.startswith("--") for name in names)
        expected: int | None = None if flags else self.notes.get("parameters")
        return expected

    @cached_property
    def values(self) -> Mapping[str, ResolvedValue]:
        """The values of the definition's options: as set, derived from other options, or from the tokenizer.

        Values that only an unavailable tokenizer could provide are None.
        """
        values = {
            spec.name: ResolvedValue(getattr(self.options, spec.name), self.origins[spec.name])
            for spec in specs_of(self.definition.options)
        }
        for name, value in derived_values(self.options).items():
            values[name] = ResolvedValue(value, Origin(DERIVED, {"option": name}))
        for name, value in self._from_tokenizer.items():
            if name in values and values[name].value is None:
                values[name] = ResolvedValue(value, Origin(TOKENIZER, {"option": name}))
        return values

    @cached_property
    def token_ids(self) -> Mapping[str, Any]:
        """Ids of the BOS, EOS and padding tokens, from the source config if there is one, else the tokenizer."""
        found = {name: getattr(self.tokenizer, name, None) for name in TOKEN_IDS}
        return found | dict(self.source_config.token_ids if self.source_config is not None else {})

    @cached_property
    def config(self) -> Mapping[str, Any]:
        """The arguments of the configuration class: options, vocabulary size, number of positions, token ids."""
        known = {name: item.value for name, item in self.values.items()}
        for name in ("vocab_size", "max_position_embeddings"):
            if known.get(name) is None:
                known.pop(name, None)
        return {**self._from_tokenizer, **known, **self.token_ids}

    @property
    def _from_tokenizer(self) -> dict[str, int]:
        if self.tokenizer is None:
            return {}
        found = {"vocab_size": self.tokenizer.vocab_size, "max_position_embeddings": self.tokenizer.model_max_length}
        return {name: value for name, value in found.items() if value is not None}

    def target(self, project: Path | None = None) -> Path:
        """Return the model directory.

        A relative path is resolved against the working directory if a flag sets it, and against the project directory
        if a file sets it.

        Args:
            project: The project directory, which contains `output_models`; None uses that of the model, else the
                working directory.
        """
        project = project or self.project or Path()
        given = self.directory.output_dir
        if given is None:
            return project / "output_models" / self.model_name
        on_command_line = self.origins["output_dir"].base is None
        return given if given.is_absolute() or on_command_line else project / given

    def base_of(self, name: str) -> Path | None:
        """Return the directory of the file that sets the option, or None if no file does."""
        return self.origins[name].base

    @contextmanager
    def errors_at(self, name: str) -> Iterator[None]:
        """Name the file and line of an option in a TokenizerError, instead of the flag, if a file sets the option."""
        try:
            yield
        except TokenizerError as error:
            place = self.origins[name].place
            if "file" not in place:
                raise
            raise TokenizerError(**error.fields() | {"option": None}).at(**place) from None

    def chat_template_text(self) -> str | None:
        """Return the text of the chat template that the options name; None if they name none.

        Raises:
            TokenizerError: It does not exist, cannot be read, or is invalid.
        """
        if not self.directory.chat_template:
            return None
        own = self.tokenizer.chat_templates if self.tokenizer is not None else {}
        with self.errors_at("chat_template"):
            return resolve_chat_template(self.directory.chat_template, self.base_of("chat_template"), own)

    def to_dict(self, project: Path | None = None) -> dict[str, Any]:
        """Return the options with their origins as plain data, the report of `show`.

        Values from a tokenizer that is not available locally (on the Hub) are null.

        Args:
            project: See `target`.
        """
        groups = ((DirectoryOptions, self.directory), (BuildOptions, self.build))
        shared = {
            spec.name: ResolvedValue(getattr(values, spec.name), self.origins[spec.name])
            for group, values in groups
            for spec in specs_of(group)
        }
        return {
            "configuration": self.configuration.name,
            "definition": self.definition.name,
            "model_name": self.model_name,
            "directory": str(self.target(project)),
            "options": _with_origins(self.values),
            "shared_options": _with_origins(shared),
            "source": self.notes.get("source"),
            "expected_parameters": self.expected_parameters,
        }

    def __repr__(self) -> str:
        return f"<ResolvedModel {self.configuration.name}: {self.model_name}>"

    def _repr_html_(self) -> str:
        from ..pages import fragment

        return fragment("show", self.to_dict())

    def with_tokenizer(self, tokenizer: TokenizerFacts | None) -> ResolvedModel:
        """Return the model with the facts of its tokenizer.

        Raises:
            ConfigurationError: `vocab_size` is smaller than the tokenizer's vocabulary.
        """
        resolved = dataclasses.replace(self, tokenizer=tokenizer)
        if tokenizer is not None:
            resolved._check_vocabulary(tokenizer)
        return resolved

    def _check_vocabulary(self, tokenizer: TokenizerFacts) -> None:
        vocab = self.values.get("vocab_size")
        if vocab is None or vocab.value >= tokenizer.vocab_size:
            return
        chosen = self.origins["tokenizer"]
        if chosen.rank > vocab.origin.rank:
            raise ConfigurationError(
                f"'{tokenizer.name}' has {tokenizer.vocab_size} entries, more than the "
                f"vocab_size ({vocab.value}) of {vocab.origin.label}",
                **chosen.place,
                hint="increase --vocab-size, or choose another tokenizer",
            )
        raise ConfigurationError(
            f"{vocab.value} is smaller than the {tokenizer.vocab_size} entries of the tokenizer '{tokenizer.name}'",
            **vocab.origin.place,
            hint="increase it, or choose another tokenizer",
        )


def _with_origins(values: Mapping[str, ResolvedValue]) -> dict[str, Any]:
    return {name: {"value": plain_copy(item.value), "origin": item.origin.label} for name, item in values.items()}


def derived_values(options: Any) -> dict[str, Any]:
    """Return the values that the definition derives for options that are null."""
    return {name: value for name, value in contracts.derived(options).items() if getattr(options, name, None) is None}
