"""The keyword options of a call: looked up, converted and divided among model, run and command."""

from __future__ import annotations

import atexit
import hashlib
import tempfile
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

from forgather_core.definitions.registry import SHARED_OPTIONS, registry
from forgather_core.errors import ConfigurationError
from forgather_core.filesystem.printable import to_json
from forgather_core.options.aliases import former_names, warn_renamed_option
from forgather_core.options.command_options import COMMAND_OPTIONS
from forgather_core.options.scope import refuse_other_commands, refuse_without_effect
from forgather_core.options.shared import BuildOptions, DirectoryOptions, OutputOptions, RunOptions
from forgather_core.options.spec import OptionSpec, did_you_mean, specs_of
from forgather_core.runtime.quiet import import_tqdm
from forgather_core.settings.layers import Configuration, find_configuration
from forgather_core.settings.resolve import resolve
from forgather_core.settings.resolved_model import ResolvedModel

Model = str | Path | ResolvedModel | Configuration
_SHARED = tuple(group for group in SHARED_OPTIONS if group is not OutputOptions)  # results are not printed here
_Options = TypeVar("_Options")


class Call:
    """One call of a function of the API.

    Args:
        function: Its name, which is that of the command.
        model: A name as for `-t`, a YAML file, a configuration that was found, or a resolved model.
        project: Directory of YAML configurations and of `output_models`; None uses the working directory and a
            temporary one.
        options: Values by name of the option.

    Raises:
        TypeError: There is no option of that name, or it belongs to the resolved model.
        ForgatherError: The model does not exist, or an option is invalid or has no effect.

    Attributes:
        resolved: The resolved model.
        run: The options of the run.
        project: The project directory.
    """

    def __init__(self, function: str, model: Model, project: str | Path | None, options: Mapping[str, Any]) -> None:
        self.function = function
        if function != "show":
            import_tqdm()
        configuration = _configuration(model, project)
        specs = _specs(function, configuration)
        given = _current_names(function, specs, options)
        typed = [specs[name] for name in given]
        refuse_other_commands(function, typed)
        names = _names_of_model(configuration)
        of_model = {name: value for name, value in given.items() if name in names}
        self._given = {name: value for name, value in given.items() if name not in names}
        if isinstance(model, ResolvedModel):
            if of_model:
                raise TypeError(f"{function}() got a resolved model: pass {', '.join(of_model)} to resolve() instead")
            self.resolved = model
        else:
            self.resolved = resolve(configuration, of_model)
        self.run = self.take(RunOptions)
        self.project = Path(project) if project is not None else _temporary_project(self.resolved)
        refuse_without_effect(function, typed, self._values())

    def take(self, options: type[_Options]) -> _Options:
        """Return an options object with the given values.

        Raises:
            ConfigurationError: A value is invalid.
        """
        known = _by_name(options)
        return _converted(options, {name: value for name, value in self._given.items() if name in known})

    def _values(self) -> dict[str, Any]:
        command = COMMAND_OPTIONS.get(self.function)
        parts = [self.resolved.options, self.resolved.directory, self.resolved.build, self.run]
        parts += [self.take(options) for options in _SHARED if options not in {DirectoryOptions, BuildOptions}]
        parts += [self.take(command)] if command is not None else []
        return {name: value for part in parts for name, value in vars(part).items()}


def take(options: type[_Options], function: str, given: Mapping[str, Any]) -> _Options:
    """Return an options object for a function without a model.

    Raises:
        TypeError: There is no option of a given name.
        ConfigurationError: A value is invalid.
    """
    return _converted(options, _current_names(function, _by_name(options), given))


def _converted(options: type[_Options], given: Mapping[str, Any]) -> _Options:
    specs, values = _by_name(options), {}
    for name, value in given.items():
        try:
            values[name] = specs[name].convert(value)
        except ConfigurationError as error:
            raise error.at(option=specs[name].flag) from None
    return options(**values)


def shared_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return those of the given options that every definition has."""
    specs = [spec for group in _SHARED for spec in specs_of(group)]
    names = {spec.name for spec in specs} | former_names(specs).keys()
    return {name: value for name, value in options.items() if name in names}


def _configuration(model: Model, project: str | Path | None) -> Configuration:
    if isinstance(model, Configuration):
        return model
    if isinstance(model, ResolvedModel):
        return model.configuration
    return find_configuration(str(model), registry(), Path(project or "."))


def _by_name(options: type) -> dict[str, OptionSpec]:
    return {spec.name: spec for spec in specs_of(options)}


def _specs(function: str, configuration: Configuration) -> dict[str, OptionSpec]:
    command = COMMAND_OPTIONS.get(function)
    groups = [configuration.definition.options, *_SHARED, *([command] if command is not None else [])]
    return {spec.name: spec for group in groups for spec in specs_of(group)}


def _names_of_model(configuration: Configuration) -> set[str]:
    groups = (configuration.definition.options, DirectoryOptions, BuildOptions)
    return {spec.name for group in groups for spec in specs_of(group)}


def _current_names(function: str, specs: Mapping[str, OptionSpec], options: Mapping[str, Any]) -> dict[str, Any]:
    former = former_names(specs.values())
    given = {}
    for name, value in options.items():
        spec = specs.get(name)
        if spec is None and name in former:
            spec = former[name]
            if spec.name in options:
                raise TypeError(f"{function}(): {name} is the former name of {spec.name}: pass one of them")
            warn_renamed_option(spec.name, option=name)
        if spec is None:
            hint = did_you_mean(name, specs)
            raise TypeError(f"{function}() has no option '{name}'" + (f". {hint}" if hint else ""))
        given[spec.name] = value
    return given


def _temporary_project(resolved: ResolvedModel) -> Path:
    """Return a directory for a model that has no other place: the same for equal options, removed at exit."""
    content = {
        "definition": resolved.definition.name,
        "config": dict(resolved.config),
        "directory": {name: str(value) for name, value in vars(resolved.directory).items()},
    }
    return _temporary_root() / hashlib.sha256(to_json(content).encode()).hexdigest()[:16]


@cache
def _temporary_root() -> Path:
    directory = tempfile.TemporaryDirectory(prefix="forgather-")
    atexit.register(directory.cleanup)
    return Path(directory.name)
