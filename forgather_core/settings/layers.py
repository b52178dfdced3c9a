"""Find the configuration that `-t` names: a definition, a preset, or a YAML file that extends one."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from importlib.resources.abc import Traversable
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from ..definitions.definition import ModelDefinition
from ..definitions.registry import Registry
from ..errors import ConfigurationError, Place, UnknownDefinitionError, access_hint
from ..filesystem.model_files import read_text
from ..filesystem.paths import expanded
from ..filesystem.printable import shortened
from ..options.aliases import former_names, warn_renamed_option
from ..options.shared import BuildOptions, DirectoryOptions
from ..options.spec import OptionSpec, did_you_mean, flag_of, specs_of, use_one_of
from ..options.yaml_text import YamlError, YamlText, parse_yaml

YAML_SUFFIXES = (".yaml", ".yml")


class Layer(NamedTuple):
    """Option values from one source. Later layers override earlier ones.

    Args:
        label: Display name of the source: `llama/4M`, `exp.yaml`, `command line`.
        values: Raw values by option name.
        text: The parsed document, if there is one, for line numbers.
        file: The file that contains the values; relative paths in it are resolved against its directory.
        renamed: The former name that the document uses, by current option name.
    """

    label: str
    values: Mapping[str, Any]
    text: YamlText | None = None
    file: Path | None = None
    renamed: Mapping[str, str] = MappingProxyType({})

    def place(self, name: str) -> Place:
        """Return the place of an option: key, file, line and column, or the flag."""
        if self.text is None:
            return {"option": flag_of(name)}
        line, column = self.text.place(self.renamed.get(name, name))
        return {"option": name, "file": self.file or self.label, "line": line, "column": column}

    def written(self, name: str) -> str | None:
        """Return the text of an option's value as written in the document, or None."""
        return self.text.written(self.renamed.get(name, name)) if self.text is not None else None


class Configuration(NamedTuple):
    """A definition and the layers over its defaults, lowest first.

    Args:
        name: The value of `-t` in full: `llama/4M`, `exp.yaml`.
        definition: The definition that the configuration extends.
        layers: The preset, then the files that extend it.
        default_model_name: The model name if no option sets one.
        notes: The values of the keys `source`, `parameters` and `description` in the topmost file.
    """

    name: str
    definition: ModelDefinition
    layers: tuple[Layer, ...]
    default_model_name: str
    notes: Mapping[str, Any] = MappingProxyType({})


NOTES = {"source": str, "parameters": int, "description": str}  # keys that describe a configuration and are not options


def with_current_names(layer: Layer) -> Layer:
    """Replace former option names in a layer by the current names, with a warning.

    Raises:
        ConfigurationError: The layer sets an option by both names.
    """
    renamed: dict[str, str] = {}
    for old in layer.values.keys() & _former_names().keys():
        new = _former_names()[old].name
        if new in layer.values:
            problem = f"is the former name of {new}, which is also set"
            raise ConfigurationError(problem, **layer.place(old), hint=f"remove {old}")
        warn_renamed_option(new if layer.text is not None else flag_of(new), **layer.place(old))
        renamed[new] = old
    if not renamed:
        return layer
    current = {old: new for new, old in renamed.items()}
    values = {current.get(key, key): value for key, value in layer.values.items()}
    return layer._replace(values=values, renamed=renamed)


@cache
def _former_names() -> dict[str, OptionSpec]:
    return former_names(spec for group in (DirectoryOptions, BuildOptions) for spec in specs_of(group))


def find_configuration(template: str, registry: Registry, project: Path = Path()) -> Configuration:
    """Find the configuration that `-t` names.

    Args:
        template: `llama/4M`, `llama`, a YAML file, or the name of one in the project directory or its `configs/`.
        registry: The registry to look up definitions in.
        project: The project directory.

    Raises:
        UnknownDefinitionError: No definition, preset or file has that name.
        ConfigurationError: A YAML file is malformed, or extends a configuration that does not exist.
    """
    file = _find_file(template, registry, project)
    return _from_file(file, registry, ()) if file is not None else _from_definition(template, registry)


def project_files(project: Path) -> dict[str, Path]:
    """Return the YAML files of a project directory and its `configs/`, by the name to pass to `-t`."""
    found: dict[str, Path] = {}
    for folder in (project / "configs", project):
        if folder.is_dir():
            found |= {p.stem: p for p in sorted(folder.iterdir()) if p.suffix in YAML_SUFFIXES and p.is_file()}
    return dict(sorted(found.items()))


def is_configuration(path: Path) -> bool:
    """Return whether a YAML file is a configuration: a mapping with the key `extends`."""
    try:
        values = parse_yaml(read_text(path)).value
    except (OSError, UnicodeDecodeError):
        return False
    except YamlError:
        return True  # listed with its error, not skipped silently
    return isinstance(values, dict) and "extends" in values


def _find_file(template: str, registry: Registry, project: Path) -> Path | None:
    path = expanded(template)
    if path.suffix in YAML_SUFFIXES:
        for candidate in (path, project / path, project / "configs" / path):
            if candidate.is_file():
                return candidate
        hint = did_you_mean(path.name, [p.name for p in project_files(project).values()]) or "check the path"
        raise UnknownDefinitionError(f"there is no configuration file '{template}'", hint=hint)
    if template in registry.plugins:
        return None
    for folder in (project, project / "configs"):
        for suffix in YAML_SUFFIXES:
            candidate = folder / (template + suffix)
            if candidate.is_file():
                return candidate
    return None


def _from_definition(template: str, registry: Registry) -> Configuration:
    name, slash, preset = template.partition("/")
    definition = registry.definition(name)
    preset = preset if slash else definition.default_preset or ""
    if not preset and not slash:
        return Configuration(name, definition, (), name.lower())
    names = definition.preset_names()
    if preset not in names:
        known = use_one_of([f"{name}/{p}" for p in names]) if names else f"use {name}"
        hint = did_you_mean(preset, names, f"'{name}/{{}}'") or known
        raise UnknownDefinitionError(f"'{name}' has no preset '{preset}'", hint=hint)
    assert definition.presets is not None
    file = definition.presets / f"{preset}.yaml"
    layer = _read(file, f"{name}/{preset}")
    values, notes = _split_notes(layer)
    if "extends" in values:
        problem = "is not supported in a preset"
        raise ConfigurationError(problem, **layer.place("extends"), hint="remove it")
    layer = with_current_names(Layer(layer.label, values, layer.text, layer.file))
    return Configuration(layer.label, definition, (layer,), f"{name}_{preset}".lower(), notes)


def _from_file(file: Path, registry: Registry, above: tuple[Path, ...]) -> Configuration:
    layer = _read(file, str(file))
    values, notes = _split_notes(layer)
    parent = values.pop("extends", None)
    if layer.text is not None:
        parent = layer.text.written("extends") or parent
    if not isinstance(parent, str) or not parent:
        hint = "name a definition, a preset or another file, for example 'extends: llama/4M'"
        problem = "is missing" if parent is None else f"expected a name, got {shortened(repr(parent))}"
        raise ConfigurationError(problem, **layer.place("extends"), hint=hint)
    chain = (*above, file.resolve())
    try:
        found = _find_file(parent, registry, file.parent)
        if found is not None and found.resolve() in chain:
            problem = f"'{parent}' extends this file"
            raise ConfigurationError(problem, **layer.place("extends"), hint="remove the cycle")
        base = _from_file(found, registry, chain) if found is not None else _from_definition(parent, registry)
    except UnknownDefinitionError as error:
        raise error.at(ConfigurationError, **layer.place("extends")) from None
    own = with_current_names(Layer(layer.label, values, layer.text, file))
    return Configuration(str(file), base.definition, (*base.layers, own), file.stem.lower(), notes)


def _read(file: Path | Traversable, label: str) -> Layer:
    try:
        text = read_text(file) if isinstance(file, Path) else file.read_text(encoding="utf-8-sig")
    except OSError as error:
        problem = f"cannot be read: {error.strerror or error}"
        raise ConfigurationError(problem, file=str(file), hint=access_hint(error)) from None
    except UnicodeDecodeError:
        raise ConfigurationError("is not UTF-8 text", file=str(file), hint="save it as UTF-8") from None
    try:
        parsed = parse_yaml(text)
    except YamlError as error:
        raise error.at(ConfigurationError, file=str(file)) from None
    values = {} if parsed.value is None else parsed.value
    if not isinstance(values, dict):
        problem = f"expected a mapping of option names, got {shortened(repr(values))}"
        raise ConfigurationError(
            problem, file=str(file), line=1, column=1, hint="write, for example, 'hidden_size: 384'"
        )
    return Layer(label, values, parsed, Path(str(file)))


def _split_notes(layer: Layer) -> tuple[dict[str, Any], dict[str, Any]]:
    notes = {key: layer.values[key] for key in NOTES if key in layer.values}
    if layer.text is not None:
        notes |= {key: layer.text.written(key) or value for key, value in notes.items() if NOTES[key] is str}
    for key, value in notes.items():
        if type(value) is not NOTES[key]:
            expected = "an integer" if NOTES[key] is int else "text"
            raise ConfigurationError(f"expected {expected}, got {value!r}", **layer.place(key))
    return {key: value for key, value in layer.values.items() if key not in notes}, notes
