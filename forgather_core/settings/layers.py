"""What `-t` names: a definition, one of its presets, or a YAML file that extends one."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.resources.abc import Traversable
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from ..definitions.definition import ModelDefinition
from ..definitions.registry import Registry
from ..errors import ConfigurationError, UnknownDefinitionError
from ..filesystem.model_files import read_text
from ..filesystem.paths import expanded
from ..options.spec import did_you_mean
from ..options.yaml_text import YamlError, YamlText, parse_yaml

YAML_SUFFIXES = (".yaml", ".yml")


class Layer(NamedTuple):
    """Values from one place, later layers over earlier ones.

    Args:
        label: What a person calls the place: `llama/4M`, `exp.yaml`, `command line`.
        values: Option names to raw values.
        text: The parsed document, where there is one, for line numbers.
        file: The file the values stand in; relative paths in it start from its directory.
    """

    label: str
    values: Mapping[str, Any]
    text: YamlText | None = None
    file: Path | None = None

    def where(self, *path: str) -> str:
        """`exp.yaml:3:1` for the key that `path` leads to, or the label where there is no file."""
        if self.text is None:
            return self.label
        line, column = self.text.place(*path)
        return f"{self.file if self.file is not None else self.label}:{line}:{column}"


class Configuration(NamedTuple):
    """A definition with the layers that lie over its defaults, lowest first.

    Args:
        name: What `-t` was given, in its full form: `llama/4M`, `exp.yaml`.
        definition: The definition at its root.
        layers: Preset first, then the files that extend it.
        default_model_name: The model name unless an option sets one.
    """

    name: str
    definition: ModelDefinition
    layers: tuple[Layer, ...]
    default_model_name: str
    notes: Mapping[str, Any] = MappingProxyType({})  # source, parameters, description: of the top file only


NOTES = {"source": str, "parameters": int, "description": str}  # said of a configuration, not settings


def find_configuration(template: str, registry: Registry, project: Path = Path()) -> Configuration:
    """Find what `-t` names.

    Args:
        template: `llama/4M`, `llama`, a YAML file, or the name of one in the project directory or its `configs/`.
        registry: Where definitions are looked up.
        project: The project directory.

    Raises:
        UnknownDefinitionError: Nothing has that name.
        ConfigurationError: A YAML file is malformed, or extends nothing that exists.
    """
    file = _find_file(template, registry, project)
    return _from_file(file, registry, ()) if file is not None else _from_definition(template, registry)


def project_files(project: Path) -> dict[str, Path]:
    """The YAML files of a project directory and its `configs/`, by the name that `-t` takes."""
    found: dict[str, Path] = {}
    for folder in (project / "configs", project):
        if folder.is_dir():
            found |= {p.stem: p for p in sorted(folder.iterdir()) if p.suffix in YAML_SUFFIXES and p.is_file()}
    return dict(sorted(found.items()))


def is_configuration(path: Path) -> bool:
    """Whether a YAML file is meant for us: a mapping with `extends`. A project holds other YAML files as well."""
    try:
        values = parse_yaml(read_text(path)).value
    except (OSError, UnicodeDecodeError):
        return False
    except YamlError:
        return True  # listed, with its error, rather than passed over in silence
    return isinstance(values, dict) and "extends" in values


def _find_file(template: str, registry: Registry, project: Path) -> Path | None:
    path = expanded(template)
    if path.suffix in YAML_SUFFIXES:
        for candidate in (path, project / path, project / "configs" / path):
            if candidate.is_file():
                return candidate
        raise UnknownDefinitionError(f"there is no configuration file '{template}'" + _near_file(path, project))
    if template in registry.plugins:
        return None
    for folder in (project, project / "configs"):
        for suffix in YAML_SUFFIXES:
            candidate = folder / (template + suffix)
            if candidate.is_file():
                return candidate
    return None


def _near_file(path: Path, project: Path) -> str:
    return did_you_mean(path.name, [p.name for p in project_files(project).values()])


def _from_definition(template: str, registry: Registry) -> Configuration:
    name, slash, preset = template.partition("/")
    definition = registry.definition(name)
    preset = preset if slash else definition.default_preset or ""
    if not preset and not slash:
        return Configuration(name, definition, (), name.lower())
    names = definition.preset_names()
    if preset not in names:
        full = ", ".join(f"{name}/{p}" for p in names)
        hint = did_you_mean(preset, names, f"'{name}/{{}}'") or f". It has: {full or 'none'}."
        raise UnknownDefinitionError(f"'{name}' has no preset '{preset}'{hint}")
    assert definition.presets is not None
    file = definition.presets / f"{preset}.yaml"
    layer = _read(file, f"{name}/{preset}")
    values, notes = _split_notes(layer)
    if "extends" in values:
        raise ConfigurationError(f"{layer.where('extends')}: extends: a preset cannot extend another configuration")
    layer = Layer(layer.label, values, layer.text, layer.file)
    return Configuration(layer.label, definition, (layer,), f"{name}_{preset}".lower(), notes)


def _from_file(file: Path, registry: Registry, above: tuple[Path, ...]) -> Configuration:
    layer = _read(file, str(file))
    values, notes = _split_notes(layer)
    parent = values.pop("extends", None)
    if layer.text is not None:
        parent = layer.text.written("extends") or parent
    if not isinstance(parent, str) or not parent:
        raise ConfigurationError(
            f"{layer.where('extends')}: 'extends' is missing: name a definition, a preset or another file, "
            "for example 'extends: llama/4M'"
        )
    chain = (*above, file.resolve())
    try:
        found = _find_file(parent, registry, file.parent)
        if found is not None and found.resolve() in chain:
            raise ConfigurationError(f"{layer.where('extends')}: extends: '{parent}' leads back to this file")
        base = _from_file(found, registry, chain) if found is not None else _from_definition(parent, registry)
    except UnknownDefinitionError as error:
        raise ConfigurationError(f"{layer.where('extends')}: extends: {error}") from None
    own = Layer(layer.label, values, layer.text, file)
    return Configuration(str(file), base.definition, (*base.layers, own), file.stem.lower(), notes)


def _read(file: Path | Traversable, label: str) -> Layer:
    try:
        text = read_text(file) if isinstance(file, Path) else file.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise ConfigurationError(f"{file}: {error.strerror or error}") from None
    except UnicodeDecodeError:
        raise ConfigurationError(f"{file}: the file is not UTF-8 text") from None
    try:
        parsed = parse_yaml(text)
    except YamlError as error:
        raise ConfigurationError(f"{file}:{error.line}:{error.column}: {error.problem}") from None
    values = {} if parsed.value is None else parsed.value
    if not isinstance(values, dict):
        raise ConfigurationError(f"{file}:1:1: expected a mapping of option names, for example 'hidden_size: 384'")
    return Layer(label, values, parsed, Path(str(file)))


def _split_notes(layer: Layer) -> tuple[dict[str, Any], dict[str, Any]]:
    notes = {key: layer.values[key] for key in NOTES if key in layer.values}
    if layer.text is not None:
        notes |= {key: layer.text.written(key) or value for key, value in notes.items() if NOTES[key] is str}
    for key, value in notes.items():
        if type(value) is not NOTES[key]:
            wanted = "a whole number" if NOTES[key] is int else "text"
            raise ConfigurationError(f"{layer.where(key)}: {key}: {value!r} is not {wanted}")
    return {key: value for key, value in layer.values.items() if key not in notes}, notes
