"""Look up and convert the keyword options of a call, and assign them to model, run and command."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

from forgather_core.definitions.registry import SHARED_OPTIONS, registry
from forgather_core.errors import ConfigurationError, UnknownDefinitionError
from forgather_core.filesystem.paths import project_directory
from forgather_core.filesystem.printable import to_json
from forgather_core.options.aliases import former_names, warn_renamed_option
from forgather_core.options.by_command import COMMAND_OPTIONS
from forgather_core.options.command_options import VerifyOptions
from forgather_core.options.scope import (
    MODEL_COMMANDS,
    NOT_LISTING,
    commands_of,
    refuse_other_commands,
    refuse_without_effect,
    requirements_of,
)
from forgather_core.options.shared import BuildOptions, DirectoryOptions, LaunchOptions, OutputOptions, RunOptions
from forgather_core.options.spec import OptionSpec, did_you_mean, specs_of
from forgather_core.runtime.quiet import import_tqdm
from forgather_core.settings.layers import Configuration, find_configuration
from forgather_core.settings.resolve import resolve
from forgather_core.settings.resolved_model import ResolvedModel

Model = str | Path | ResolvedModel | Configuration
# Results are not printed here, and processes are not started.
_SHARED = tuple(group for group in SHARED_OPTIONS if group not in (OutputOptions, LaunchOptions))
_Options = TypeVar("_Options")
# Names of the parameters of each function that takes options, for suggestions; filled by `public`.
PARAMETERS: dict[str, tuple[str, ...]] = {}


class Call:
    """One call of a function of the API.

    Args:
        function: The name of the function.
        model: A name as for `-t`, a YAML file, a `Configuration`, or a resolved model.
        project: Directory of YAML configurations and of `output_models`; None uses that of the resolved model, else the
            working directory and a temporary one.
        options: The given values by option name.

    Raises:
        TypeError: There is no option of that name, or it belongs to the resolved model.
        ForgatherError: The model does not exist, or an option is invalid or has no effect.

    Attributes:
        resolved: The resolved model.
        run: The options of the run.
        project: The given project directory, or None.
    """

    def __init__(self, function: str, model: Model, project: str | Path | None, options: Mapping[str, Any]) -> None:
        command = {"resolve": "show", "list_checks": "verify"}.get(function, function)
        if command != "show":
            import_tqdm()
        self.project = None if project is None else project_directory(project, "project")
        configuration = _configuration(function, model, self.project)
        specs = _specs(function, configuration)
        given = current_names(function, specs, options)
        given_specs = [specs[name] for name in given]
        refuse_other_commands(command, given_specs)
        names = _names_of_model(configuration)
        model_options = {name: value for name, value in given.items() if name in names}
        # Use the specs of the command: several commands have an `optimizer`, with different choices.
        self._given = converted(specs, {name: value for name, value in given.items() if name not in names})
        if isinstance(model, ResolvedModel):
            if model_options:
                raise TypeError(
                    f"{function}() got a resolved model: pass {', '.join(model_options)} to resolve() instead"
                )
            self.resolved = model
        else:
            self.resolved = replace(resolve(configuration, model_options), project=self.project)
        self.run = self.take(RunOptions)
        values = {name: spec.default for name, spec in specs.items()} | self._given
        for part in (self.resolved.options, self.resolved.directory, self.resolved.build):
            values |= vars(part)
        refuse_without_effect(command, given_specs, values)

    def model_project(self) -> Path:
        """Return the project directory of the model directory, which may be a temporary one."""
        if (project := self.project or self.resolved.project) is not None:
            return project
        # No temporary directory is needed if a YAML file sets output_dir.
        return Path() if self.resolved.directory.output_dir is not None else _temporary_project(self.resolved)

    def take(self, options: type[_Options]) -> _Options:
        """Return an options object with the given values."""
        known = by_name(options)
        return options(**{name: value for name, value in self._given.items() if name in known})


def take(
    options: type[_Options], function: str, given: Mapping[str, Any], specs: Mapping[str, OptionSpec] | None = None
) -> _Options:
    """Return an options object for a function without a model.

    Args:
        options: The class of the options.
        function: The name of the function.
        given: Values by name.
        specs: The options that the function accepts, by name; None: all options of the class.

    Raises:
        TypeError: There is no option of a given name.
        ConfigurationError: A value is invalid.
    """
    specs = by_name(options) if specs is None else specs
    return options(**converted(specs, current_names(function, specs, given)))


def converted(specs: Mapping[str, OptionSpec], given: Mapping[str, Any]) -> dict[str, Any]:
    """Convert the values of options to the types of the options.

    Raises:
        ConfigurationError: A value is invalid.
    """
    values = {}
    for name, value in given.items():
        try:
            values[name] = specs[name].convert(value)
        except ConfigurationError as error:
            raise error.at(option=specs[name].flag) from None
    return values


def shared_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the given options that all definitions share."""
    specs = [spec for group in _SHARED for spec in specs_of(group)]
    names = {spec.name for spec in specs} | former_names(specs).keys()
    return {name: value for name, value in options.items() if name in names}


def _configuration(function: str, model: Model, project: Path | None) -> Configuration:
    if isinstance(model, Configuration):
        return model
    if isinstance(model, ResolvedModel):
        return model.configuration
    if not isinstance(model, (str, Path)):
        raise TypeError(f"{function}() expected a name, a path or a resolved model, got {type(model).__name__}")
    try:
        return find_configuration(str(model), registry(), project or Path())
    except UnknownDefinitionError as error:
        if function == "verify" and Path(model).is_dir():
            hint = f"verify the directory of that name with Path({str(model)!r})"
            raise UnknownDefinitionError(**error.fields() | {"hint": hint}) from None
        raise


def by_name(options: type) -> dict[str, OptionSpec]:
    """Return the options of a dataclass by name."""
    return {spec.name: spec for spec in specs_of(options)}


def _specs(function: str, configuration: Configuration) -> dict[str, OptionSpec]:
    model_groups = (configuration.definition.options, DirectoryOptions, BuildOptions)
    if function == "resolve":
        return {spec.name: spec for group in model_groups for spec in specs_of(group)}
    if function == "list_checks":
        return options_of_listing(*model_groups, VerifyOptions)
    command = COMMAND_OPTIONS.get(function)
    groups = [configuration.definition.options, *_SHARED, *([command] if command is not None else [])]
    return {spec.name: spec for group in groups for spec in specs_of(group)}


def options_of_listing(*groups: type) -> dict[str, OptionSpec]:
    """Return the options of `verify` that `list_checks` accepts, by name: all but those that affect running checks."""
    specs = [spec for group in groups for spec in specs_of(group) if "verify" in commands_of(spec)]
    return {spec.name: spec for spec in specs if NOT_LISTING not in requirements_of(spec) and spec.name != "list"}


def _names_of_model(configuration: Configuration) -> set[str]:
    groups = (configuration.definition.options, DirectoryOptions, BuildOptions)
    return {spec.name for group in groups for spec in specs_of(group)}


def current_names(function: str, specs: Mapping[str, OptionSpec], options: Mapping[str, Any]) -> dict[str, Any]:
    """Return values by the current names of their options, and warn about each former name.

    Raises:
        TypeError: There is no option of a given name, or an option is given by both of its names.
    """
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
    hint = did_you_mean(name, [*known, *PARAMETERS.get(function, ())])
    return TypeError(
        f"{function}() has no option '{name}'" + (f". {hint}" if hint else f": see help(forgather.{function})")
    )


def _temporary_project(resolved: ResolvedModel) -> Path:
    """Return the temporary directory of a model: the same for equal options, removed at exit."""
    import hashlib  # imported where used, like tempfile below: every command imports this module

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
