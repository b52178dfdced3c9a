"""The keyword options of a call: looked up, converted and divided among model, run and command."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from functools import cache, wraps
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

from forgather_core.definitions.registry import SHARED_OPTIONS, registry
from forgather_core.errors import ConfigurationError, UnknownDefinitionError
from forgather_core.filesystem.printable import to_json
from forgather_core.options.aliases import former_names, warn_renamed_option
from forgather_core.options.command_options import COMMAND_OPTIONS
from forgather_core.options.scope import MODEL_COMMANDS, commands_of, refuse_other_commands, refuse_without_effect
from forgather_core.options.shared import BuildOptions, DirectoryOptions, OutputOptions, RunOptions
from forgather_core.options.spec import OptionSpec, did_you_mean, specs_of
from forgather_core.runtime.quiet import import_tqdm
from forgather_core.settings.layers import Configuration, find_configuration
from forgather_core.settings.resolve import resolve
from forgather_core.settings.resolved_model import ResolvedModel

Model = str | Path | ResolvedModel | Configuration
_SHARED = tuple(group for group in SHARED_OPTIONS if group is not OutputOptions)  # results are not printed here
_Options = TypeVar("_Options")
_P = ParamSpec("_P")
_R = TypeVar("_R")


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
        command = "show" if function == "resolve" else function
        if command != "show":
            import_tqdm()
        configuration = _configuration(function, model, project)
        specs = _specs(function, configuration)
        given = _current_names(function, specs, options)
        typed = [specs[name] for name in given]
        refuse_other_commands(command, typed)
        names = _names_of_model(configuration)
        of_model = {name: value for name, value in given.items() if name in names}
        # Converted by the options of the command: several commands have an `optimizer`, with different choices.
        self._given = _converted(specs, {name: value for name, value in given.items() if name not in names})
        if isinstance(model, ResolvedModel):
            if of_model:
                raise TypeError(f"{function}() got a resolved model: pass {', '.join(of_model)} to resolve() instead")
            self.resolved = model
        else:
            self.resolved = resolve(configuration, of_model)
        self.run = self.take(RunOptions)
        self.project = _project(self.resolved, project)
        values = {name: spec.default for name, spec in specs.items()} | self._given
        for part in (self.resolved.options, self.resolved.directory, self.resolved.build):
            values |= vars(part)
        refuse_without_effect(command, typed, values)

    def take(self, options: type[_Options]) -> _Options:
        """Return an options object with the given values."""
        known = _by_name(options)
        return options(**{name: value for name, value in self._given.items() if name in known})


def take(options: type[_Options], function: str, given: Mapping[str, Any]) -> _Options:
    """Return an options object for a function without a model.

    Raises:
        TypeError: There is no option of a given name.
        ConfigurationError: A value is invalid.
    """
    specs = _by_name(options)
    return options(**_converted(specs, _current_names(function, specs, given)))


def _converted(specs: Mapping[str, OptionSpec], given: Mapping[str, Any]) -> dict[str, Any]:
    values = {}
    for name, value in given.items():
        try:
            values[name] = specs[name].convert(value)
        except ConfigurationError as error:
            raise error.at(option=specs[name].flag) from None
    return values


def shared_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return those of the given options that every definition has."""
    specs = [spec for group in _SHARED for spec in specs_of(group)]
    names = {spec.name for spec in specs} | former_names(specs).keys()
    return {name: value for name, value in options.items() if name in names}


def _project(resolved: ResolvedModel, project: str | Path | None) -> Path:
    if project is not None:
        return Path(project)
    # An output directory of a YAML file is as permanent as one of a call.
    return Path() if resolved.directory.output_dir is not None else _temporary_project(resolved)


def _configuration(function: str, model: Model, project: str | Path | None) -> Configuration:
    if isinstance(model, Configuration):
        return model
    if isinstance(model, ResolvedModel):
        return model.configuration
    if not isinstance(model, (str, Path)):
        raise TypeError(f"{function}() expected a name, a path or a resolved model, got {type(model).__name__}")
    try:
        return find_configuration(str(model), registry(), Path(project or "."))
    except UnknownDefinitionError as error:
        if function == "verify" and Path(model).is_dir():
            hint = f"verify the directory of that name with Path({str(model)!r})"
            raise UnknownDefinitionError(**error.fields() | {"hint": hint}) from None
        raise


def _by_name(options: type) -> dict[str, OptionSpec]:
    return {spec.name: spec for spec in specs_of(options)}


def _specs(function: str, configuration: Configuration) -> dict[str, OptionSpec]:
    command = COMMAND_OPTIONS.get(function)
    shared = (DirectoryOptions, BuildOptions) if function == "resolve" else _SHARED
    groups = [configuration.definition.options, *shared, *([command] if command is not None else [])]
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
            used = [one.name for one in specs.values() if function in commands_of(one)]
            raise no_such_option(function, name, specs if function not in MODEL_COMMANDS else used)
        given[spec.name] = value
    return given


def no_such_option(function: str, name: str, known: Iterable[str]) -> TypeError:
    """Return the error about a keyword that is not an option, with the nearest name."""
    hint = did_you_mean(name, known)
    return TypeError(
        f"{function}() has no option '{name}'" + (f". {hint}" if hint else f": see help(forgather.{function})")
    )


def with_options(options: type) -> Callable[[Callable[_P, _R]], Callable[_P, _R]]:
    """Return a decorator for a function with the options of a dataclass as keywords: it converts their values.

    The function raises a TypeError with the nearest name for an unknown keyword, and a ConfigurationError for an
    invalid value. Former names are accepted.
    """

    def decorate(function: Callable[_P, _R]) -> Callable[_P, _R]:
        known = inspect.signature(function).parameters

        @wraps(function)
        def call(*args: _P.args, **kwargs: _P.kwargs) -> _R:
            specs, own = _by_name(options), {name: value for name, value in kwargs.items() if name in known}
            former = former_names(specs.values())
            for name in kwargs.keys() - own.keys() - specs.keys() - former.keys():
                raise no_such_option(function.__name__, name, known)
            given = {name: value for name, value in kwargs.items() if name in specs or name not in own}
            current = _current_names(function.__name__, specs, given)
            return function(*args, **{**own, **_converted(specs, current)})  # type: ignore[arg-type]

        return call

    return decorate


def _temporary_project(resolved: ResolvedModel) -> Path:
    """Return a directory for a model that has no other place: the same for equal options, removed at exit."""
    import hashlib  # here and below: every command imports this module

    content = {
        "definition": resolved.definition.name,
        "config": dict(resolved.config),
        "directory": {name: str(value) for name, value in vars(resolved.directory).items()},
    }
    return _temporary_root() / hashlib.sha256(to_json(content).encode()).hexdigest()[:16]


@cache
def _temporary_root() -> Path:
    import atexit
    import tempfile

    directory = tempfile.TemporaryDirectory(prefix="forgather-")
    atexit.register(directory.cleanup)
    return Path(directory.name)
