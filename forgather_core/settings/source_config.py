"""`--from-config DIR`: read the options and the tokenizer of a Hugging Face model directory."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..definitions import contracts
from ..definitions.definition import ModelDefinition
from ..definitions.registry import registry
from ..errors import ConfigurationError, access_hint, first_line
from ..filesystem.model_files import check_files
from ..filesystem.strict_json import parse_file
from ..options.spec import specs_of
from ..options.yaml_text import YamlError, YamlText, parse_yaml
from .layers import Layer
from .native_config import FP8_METHODS, read_source

TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "tokenizer_config.json", "vocab.json")
MANIFEST = "forgather.json"
MOST_NOTES = 20
FLAG = "--from-config"


@dataclass(frozen=True)
class SourceConfig:
    """The values taken from a model directory.

    Args:
        directory: The directory.
        layer: A configuration layer with its options, its dtype, and the directory as tokenizer if it contains one.
        token_ids: The special token ids set in its config.json.
        generation: The content of its generation_config.json, or None if the file does not exist.
        content: The content of its config.json, without `quantization_config`.
        native: Whether the file is a configuration of the native transformers class; otherwise of the definition.
        notes: One sentence for each key of config.json that is not read.
    """

    directory: Path
    layer: Layer
    token_ids: Mapping[str, Any]
    generation: Mapping[str, Any] | None
    content: Mapping[str, Any]
    native: bool
    notes: tuple[str, ...] = ()

    @property
    def default_model_name(self) -> str:
        """The name of the directory, in lower case."""
        return self.directory.resolve().name.lower()


def read_source_config(definition: ModelDefinition, directory: Path) -> SourceConfig:
    """Read a model directory of this definition, or of its native transformers class.

    Values that config.json omits are the defaults of its class. Code in the directory is never run.

    Raises:
        ConfigurationError: The directory is not a model directory, contains a model of another architecture, or uses a
            feature that the definition does not support.
    """
    file = directory / "config.json"
    text, content = _content(file)
    check_files(directory, ConfigurationError)
    config_class = definition.config_class()
    _check_model_type(definition, config_class, content, file)
    plain = _without_quantization(content, file)
    try:
        source = read_source(definition, plain, own_code=(directory / MANIFEST).is_file())
    except ConfigurationError as error:
        raise error.at(option=FLAG, file=file) from None
    config = source.config
    values = {spec.name: getattr(config, spec.name) for spec in specs_of(definition.options)}
    if (dtype := content.get("dtype") or content.get("torch_dtype")) is not None:
        values["dtype"] = str(dtype).removeprefix("torch.")
    if any((directory / name).is_file() for name in TOKENIZER_FILES):
        values["tokenizer"] = str(directory)
    names = ("bos_token_id", "eos_token_id", "pad_token_id")
    ids = {name: value for name in names if (value := getattr(config, name)) is not None}
    generation = directory / "generation_config.json"
    return SourceConfig(
        directory,
        Layer(f"from_config {directory}", values, text, file),
        ids,
        _content(generation)[1] if generation.is_file() else None,
        plain,
        source.native is not None,
        _notes(source.unread),
    )


def _without_quantization(content: Mapping[str, Any], file: Path) -> dict[str, Any]:
    """Return the content without `quantization_config`. Only FP8 weights can be dequantized while loading."""
    given = content.get("quantization_config")
    method = given.get("quant_method") if isinstance(given, dict) else None
    if given and str(method).lower() not in FP8_METHODS:
        problem = f"the model is quantized ({method or 'unknown'}), which is not supported"
        hint = "use the directory of the unquantized model"
        raise ConfigurationError(problem, option=FLAG, file=file, hint=hint)
    return {name: value for name, value in content.items() if name != "quantization_config"}


def _notes(unread: Mapping[str, str]) -> tuple[str, ...]:
    notes = [f"{FLAG}: {name} is not read: {reason}" for name, reason in [*unread.items()][:MOST_NOTES]]
    more = len(unread) - len(notes)
    return (*notes, f"{FLAG}: {more} more keys are not read") if more else tuple(notes)


def _content(file: Path) -> tuple[YamlText, dict[str, Any]]:
    try:
        data, content = parse_file(file)
        text = data.decode("utf-8")
    except FileNotFoundError:
        raise ConfigurationError("does not exist", option=FLAG, file=file, hint=_download_hint(file.parent)) from None
    except (OSError, ValueError) as error:
        problem = f"cannot be read: {first_line(error)}"
        raise ConfigurationError(problem, option=FLAG, file=file, hint=access_hint(error)) from None
    try:
        return parse_yaml(text), content  # JSON is YAML, and this parser keeps the line of every key
    except YamlError:
        return YamlText(None, None), content


def _download_hint(directory: Path) -> str:
    """Return the hint for a directory without config.json; a path of two parts may be the id of a model on the Hub."""
    if directory.is_dir():
        return "use a Hugging Face model directory"
    if directory.is_absolute() or len(directory.parts) != 2 or ".." in directory.parts:
        return f"use a model directory, or download one: hf download OWNER/NAME --local-dir {directory}"
    name = directory.name
    download = f"hf download {directory} --local-dir {name}"
    return f"use a model directory, or download one: {download}, then use {FLAG} {name}"


def _check_model_type(definition: ModelDefinition, config_class: Any, content: Mapping[str, Any], file: Path) -> None:
    kind = content.get("model_type")
    native = contracts.native_model_type(config_class)
    if kind in [config_class.model_type, *([native] if native else []), *contracts.also_reads(config_class)]:
        return
    architecture = next(iter(content.get("architectures") or ()), None)
    others = [d.name for d in registry().definitions() if d.native is not None and d.native == architecture]
    problem = f"the model_type is '{kind}', which '{definition.name}' does not support"
    hint = f"use -t {others[0]}" if others else "choose another directory, or another definition"
    raise ConfigurationError(problem, option=FLAG, file=file, hint=hint)
