"""`--like DIR`: the options and the tokenizer of a Hugging Face model directory."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .configurations import Layer
from .definition import ModelDefinition, import_object
from .errors import ConfigurationError, first_line
from .model_files import check_files
from .option_spec import specs_of
from .registry import registry
from .strict_json import parse_file
from .yaml_text import YamlError, YamlText, parse_yaml

TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "tokenizer_config.json", "vocab.json")


@dataclass(frozen=True)
class Likeness:
    """What is taken from a model directory.

    Args:
        directory: The directory.
        layer: Its options, its dtype, and the directory as tokenizer where it holds one, as a layer of a configuration.
        token_ids: Of its config.json, those that it has.
        generation: The content of its generation_config.json; None without one.
    """

    directory: Path
    layer: Layer
    token_ids: Mapping[str, Any]
    generation: Mapping[str, Any] | None

    @property
    def default_model_name(self) -> str:
        """The model is called after the directory."""
        return self.directory.resolve().name.lower()


def read_likeness(definition: ModelDefinition, directory: Path) -> Likeness:
    """Read a model directory of transformers' class for this definition, or of this definition.

    Every value that its class has is read, those that its config.json leaves out too; what this definition cannot be is
    refused. No code of the directory is run.

    Raises:
        ConfigurationError: It is none, it is another model, or it has what this definition has not.
    """
    from huggingface_hub.errors import StrictDataclassError

    file = directory / "config.json"
    text, content = _content(file)
    check_files(directory, ConfigurationError)
    config_class = import_object(definition.config, definition)
    _check_model_type(definition, config_class, content, file)
    if content.get("quantization_config"):
        raise ConfigurationError(f"--like: {file}: the model is quantized, and a definition has plain weights")
    try:
        config = _config(config_class, content, directory)
    except (StrictDataclassError, TypeError, ValueError, KeyError, OSError) as error:
        raise ConfigurationError(f"--like: {file}: {first_line(error.__cause__ or error)}") from None
    values = {spec.name: getattr(config, spec.name) for spec in specs_of(definition.options)}
    if (dtype := content.get("dtype") or content.get("torch_dtype")) is not None:
        values["dtype"] = str(dtype).removeprefix("torch.")
    if any((directory / name).is_file() for name in TOKENIZER_FILES):
        values["tokenizer"] = str(directory)
    names = ("bos_token_id", "eos_token_id", "pad_token_id")
    ids = {name: value for name in names if (value := getattr(config, name)) is not None}
    generation = directory / "generation_config.json"
    return Likeness(
        directory,
        Layer(f"like {directory}", values, text, file),
        ids,
        _content(generation)[1] if generation.is_file() else None,
    )


def _content(file: Path) -> tuple[YamlText, dict[str, Any]]:
    try:
        data, content = parse_file(file)
        text = data.decode("utf-8")
    except FileNotFoundError:
        where = file.parent
        hint = "" if where.is_dir() else f"; a model of a hub must be downloaded first: hf download {where}"
        raise ConfigurationError(f"--like: there is no {file}: name a Hugging Face model directory{hint}") from None
    except (OSError, ValueError) as error:
        raise ConfigurationError(f"--like: {file} cannot be read: {first_line(error)}") from None
    try:
        return parse_yaml(text), content  # JSON is YAML, and this one knows the line of every key
    except YamlError:
        return YamlText(None, None), content


def _check_model_type(definition: ModelDefinition, config_class: Any, content: Mapping[str, Any], file: Path) -> None:
    kind = content.get("model_type")
    native = getattr(config_class, "native_model_type", None)
    readable = [config_class.model_type, *([native] if native else []), *getattr(config_class, "also_reads", ())]
    if kind in readable:
        return
    architecture = next(iter(content.get("architectures") or ()), None)
    others = [d.name for d in registry().definitions() if d.native is not None and d.native == architecture]
    hint = f": take -t {others[0]}" if others else f", which '{definition.name}' cannot be"
    raise ConfigurationError(f"--like: {file}: the model_type is '{kind}'{hint}")


def _config(config_class: Any, content: Mapping[str, Any], directory: Path) -> Any:
    if content["model_type"] == config_class.model_type:
        return config_class.from_pretrained(directory)
    from transformers import AutoConfig

    native = AutoConfig.from_pretrained(directory, trust_remote_code=False)  # knows what the file leaves out
    return config_class(**{key: value for key, value in native.to_dict().items() if key != "model_type"})
