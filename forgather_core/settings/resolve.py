"""Resolve options: defaults < preset < YAML files < flags, with interpolation and the origin of every value.

`from_config` inserts the options of a model directory directly below the layer that sets it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..definitions.definition import ModelDefinition
from ..errors import ConfigurationError, Place, first_line
from ..filesystem.paths import expanded
from ..options.shared import BuildOptions, DirectoryOptions
from ..options.spec import OptionSpec, did_you_mean, specs_of
from ..tokenizers.lookup import quick_facts
from .blame import blamed, first_problem
from .layers import Configuration, Layer, with_current_names
from .resolved_model import Origin, ResolvedModel

if TYPE_CHECKING:
    from .source_config import SourceConfig

DEFAULT = "default"


def schema(options: type) -> dict[str, OptionSpec]:
    """Return the options that a configuration of this definition may set, by name."""
    return {spec.name: spec for group in (options, DirectoryOptions, BuildOptions) for spec in specs_of(group)}


def resolve(configuration: Configuration, flags: Mapping[str, Any] | None = None) -> ResolvedModel:
    """Merge the defaults, the layers of a configuration and the flags into a resolved model.

    Args:
        configuration: The configuration, from `find_configuration`.
        flags: Values given on the command line, by option name.

    Raises:
        ConfigurationError: A key is unknown, a value is invalid, an interpolation cannot be resolved, or options
            contradict each other. The message starts with file, line and column, or with the flag.
    """
    definition = configuration.definition
    specs = schema(definition.options)
    files = [_as_written(layer, specs) for layer in configuration.layers]
    command_line = with_current_names(Layer("command line", flags or {}))
    layers, source_config = _with_source_config([*files, command_line], definition)
    origins = {name: Origin(DEFAULT, {"option": name}) for name in specs}
    merged: dict[str, Any] = {name: spec.default for name, spec in specs.items()}
    for rank, layer in enumerate(layers, start=1):
        for key, value in layer.values.items():
            spec = _spec_of(key, specs, layer, definition.name)
            old = merged[key] if spec.info.merge and isinstance(value, dict) else None
            merged[key] = {**old, **value} if isinstance(old, dict) else value
            origins[key] = dataclasses.replace(_origin(layer, spec), rank=rank)
    plain = _interpolate(merged, origins, layers)
    values = {name: _convert(spec, plain[name], origins[name]) for name, spec in specs.items()}

    def instance(options: type) -> Any:
        return options(**{f.name: values[f.name] for f in dataclasses.fields(options) if f.name in values})

    options, directory, build = (instance(kind) for kind in (definition.options, DirectoryOptions, BuildOptions))
    resolved = ResolvedModel(configuration, options, directory, build, origins, source_config=source_config)
    _check_rules(resolved, specs, layers)
    _check_model_name(resolved)
    with resolved.errors_at("tokenizer"):
        facts = quick_facts(directory.tokenizer, base=resolved.base_of("tokenizer"))
    return resolved.with_tokenizer(facts)


def _with_source_config(layers: list[Layer], definition: ModelDefinition) -> tuple[list[Layer], SourceConfig | None]:
    """Insert the options of the source config directly below the topmost layer that sets `from_config`."""
    at = next((i for i, layer in reversed(list(enumerate(layers))) if "from_config" in layer.values), None)
    if at is None or layers[at].values["from_config"] is None:
        return layers, None
    from .source_config import read_source_config

    given, base = expanded(str(layers[at].values["from_config"])), layers[at].file
    inside = base is not None and (base.parent / given).is_dir()
    source_config = read_source_config(definition, base.parent / given if inside and base is not None else given)
    if not any("tokenizer" in layer.values for layer in (source_config.layer, *layers[at:])):
        file = source_config.directory
        raise ConfigurationError("has no tokenizer", option="--from-config", file=file, hint="add --tokenizer")
    return [*layers[:at], source_config.layer, *layers[at:]], source_config


def _spec_of(key: str, specs: Mapping[str, OptionSpec], layer: Layer, definition: str) -> OptionSpec:
    if key in specs:
        return specs[key]
    similar = did_you_mean(str(key).replace("-", "_"), specs)
    hint = similar or f"list the options with forgather -t {definition} model show"
    raise ConfigurationError(f"'{definition}' has no such option", **layer.place(str(key)), hint=hint)


def _as_written(layer: Layer, specs: Mapping[str, OptionSpec]) -> Layer:
    """Replace the values of text options in a file by their source text: `model_name: 1.10` must not become 1.1."""
    if layer.text is None:
        return layer
    plain = {key for key, value in layer.values.items() if key in specs and specs[key].takes_text and value is not None}
    texts = {key: text for key in plain if (text := layer.written(key)) is not None}
    return layer._replace(values={**layer.values, **texts})


def _origin(layer: Layer, spec: OptionSpec) -> Origin:
    place = layer.place(spec.name)
    if layer.text is None:  # the command line
        return Origin(spec.flag, place)
    is_file = layer.file is not None and layer.label == str(layer.file)
    label = f"{layer.file.name}:{place['line']}" if is_file and layer.file is not None else layer.label
    return Origin(label, place, layer.file.parent if layer.file is not None else None)


def _interpolate(merged: dict[str, Any], origins: Mapping[str, Origin], layers: Sequence[Layer]) -> dict[str, Any]:
    if not any(_has_interpolation(value) for value in merged.values()):
        return merged  # avoids importing OmegaConf in the common case
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    plain = {name: str(value) if isinstance(value, Path) else value for name, value in merged.items()}
    try:
        config = OmegaConf.create(plain)
        resolved = {name: _resolve(config, name) for name in plain}
    except OmegaConfBaseException as error:
        key = str(error.full_key or "").split(".")[0].split("[")[0]
        place: Place = origins[key].place if key in origins else {"option": key}
        hint = "correct the interpolation"
        raise ConfigurationError(_interpolation_problem(error), **place, hint=hint) from None
    except RecursionError:
        name = next(name for name, value in merged.items() if _has_interpolation(value))
        problem = "the interpolation refers to itself"
        raise ConfigurationError(problem, **origins[name].place, hint="remove the cycle") from None
    return {name: merged[name] if not _has_interpolation(merged[name]) else resolved[name] for name in merged}


def _interpolation_problem(error: Exception) -> str:
    """Return OmegaConf's message without the exception class that it adds to errors of resolvers such as `oc.env`."""
    return first_line(error).rpartition("raised while resolving interpolation: ")[2].strip('"')


def _resolve(config: Any, name: str) -> Any:
    from omegaconf import OmegaConf

    value = config[name]
    return OmegaConf.to_container(value, resolve=True) if OmegaConf.is_config(value) else value


def _has_interpolation(value: Any) -> bool:
    if isinstance(value, str):
        return "${" in value
    if isinstance(value, dict):
        return any(_has_interpolation(item) for item in value.values())
    return isinstance(value, (list, tuple)) and any(_has_interpolation(item) for item in value)


def _convert(spec: OptionSpec, value: Any, origin: Origin) -> Any:
    if origin.label == DEFAULT:
        return value
    try:
        return spec.convert(value)
    except ConfigurationError as error:
        raise error.at(**origin.place) from None


def _check_rules(resolved: ResolvedModel, specs: Mapping[str, OptionSpec], layers: Sequence[Layer]) -> None:
    problem = first_problem(resolved.options)
    if problem is None:
        return
    name, sentence = problem
    defaults = {key: spec.default for key, spec in specs.items()}
    found = blamed(resolved.options, problem, [defaults, *(_converted(layer, specs) for layer in layers)])
    error = ConfigurationError(sentence, option=name)
    if found is None:
        raise error
    number, names = found
    places = [layers[number - 1].place(key) for key in names]
    if names == (name,):
        raise ConfigurationError(sentence, **places[0])
    raise error.at(**places[0] | {"option": " with ".join(place["option"] for place in places)})


def _converted(layer: Layer, specs: Mapping[str, OptionSpec]) -> dict[str, Any]:
    """Convert the values of a layer, leaving out invalid ones and those with an interpolation."""
    found = {}
    for key, value in layer.values.items():
        with suppress(ConfigurationError):
            if not _has_interpolation(value):
                found[key] = specs[key].convert(value)
    return found


def _check_model_name(resolved: ResolvedModel) -> None:
    name = resolved.model_name
    if name in {".", ".."} or "/" in name or "\\" in name or not name.isprintable() or name != name.strip():
        place = resolved.origins["model_name"].place
        hint = "use a name without '/', '\\' or surrounding spaces; set a path with --output-dir"
        raise ConfigurationError(f"'{name}' is not a valid directory name", **place, hint=hint)
