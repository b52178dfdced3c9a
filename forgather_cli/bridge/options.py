"""Typer parameters for the options of dataclasses, created through Typer's public API."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping
from typing import Annotated, Any

import typer
import typer.main
from typer.core import TyperGroup

from forgather_core.errors import ConfigurationError, ForgatherError
from forgather_core.options.aliases import former_names, warn_renamed_option
from forgather_core.options.scope import is_required
from forgather_core.options.spec import OptionSpec, flag_of

from ..completion import completion_of
from .shell import IS_COMPLETING


def typer_parameters(specs: Iterable[OptionSpec]) -> dict[str, Any]:
    """Create one Typer parameter for each option, and a hidden one for each former name.

    Typer creates the parameters from a function with the options as its signature. Values are converted by
    `OptionSpec`, so that messages are the same in every release of Typer and no type adapters are built.

    Returns:
        The parameters by name.
    """
    specs = list(specs)
    by_name = {spec.name: spec for spec in specs} | former_names(specs)
    annotations = {name: Annotated[_cli_type(spec), _declaration(spec, name)] for name, spec in by_name.items()}

    def stub(**_: Any) -> None: ...

    stub.__annotations__ = annotations
    stub.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        [
            inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation)
            for name, annotation in annotations.items()
        ]
    )
    app = typer.Typer(add_completion=False)
    app.command()(stub)
    made = {p.name: p for p in typer.main.get_command(app).params if p.name in by_name}
    for name, parameter in made.items():
        _convert_with(parameter, by_name[str(name)])
    return {str(name): parameter for name, parameter in made.items()}


def _cli_type(spec: OptionSpec) -> Any:
    return bool | None if spec.kind is bool else str | None


def _declaration(spec: OptionSpec, name: str) -> Any:
    more: dict[str, Any] = {"hidden": True} if name != spec.name else {}
    if IS_COMPLETING and (complete := completion_of(spec)) is not None:
        more["autocompletion"] = complete
    if spec.kind is not bool:
        more["metavar"] = spec.metavar
    flag = flag_of(name)
    both = f"{flag}/--no-{flag[2:]}" if spec.negation else flag
    short = spec.info.flags if name == spec.name else ()
    return typer.Option(both, *short, help=spec.info.help, show_default=False, **more)


def given_values(ctx: typer.Context, specs: Iterable[OptionSpec], parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Remove the values given on the command line from a context, and return them by the current option names.

    Args:
        ctx: The context. The values are removed from `ctx.params`, because the callback has no parameters for them.
        specs: The options.
        parameters: Their parameters by name, including former names.

    Raises:
        ForgatherError: An option is given by both of its names.
    """
    values = {name: ctx.params.pop(name, None) for name in parameters}
    given = {name: value.value for name, value in values.items() if isinstance(value, CliValue)}
    for old, spec in former_names(specs).items():
        if old not in given:
            continue
        if spec.name in given:
            problem = f"is the former name of {spec.flag}, which is also set"
            raise ForgatherError(problem, option=flag_of(old), hint="use one of them")
        if not ctx.resilient_parsing:
            warn_renamed_option(spec.flag, option=flag_of(old))
        given[spec.name] = given.pop(old)
    return given


def _convert_with(parameter: Any, spec: OptionSpec) -> None:
    def process_value(ctx: typer.Context, value: Any) -> Any:
        if value is None:  # not on the command line
            if is_required(spec) and not ctx.resilient_parsing:
                raise ConfigurationError("is missing", option=spec.flag, hint=f"add {spec.flag} {spec.info.metavar}")
            return None
        try:
            return CliValue(spec.convert(value))
        except ConfigurationError as error:
            raise error.at(option=given_flag(parameter, spec)) from None

    parameter.process_value = process_value


def given_flag(parameter: Any, spec: OptionSpec) -> str:
    """Return the flag that messages name: the current flag, or the former one if the parameter is an alias."""
    return spec.flag if spec.flag in parameter.opts else parameter.opts[0]


class CliValue:
    """A value given on the command line, which may be null."""

    def __init__(self, value: Any) -> None:
        self.value = value


def skip_conversion(parameter: Any) -> None:
    """Make a parameter created by Typer pass its text through, so that no type adapter is built."""
    if getattr(parameter, "forgather_plain", False):
        return
    parameter.forgather_plain = True

    def process_value(ctx: typer.Context, value: Any) -> Any:
        if parameter.required and not ctx.resilient_parsing and parameter.value_is_missing(value):
            is_option = parameter.param_type_name != "argument"
            name = max(parameter.opts, key=len) if is_option else parameter.metavar or parameter.name
            example = usage_line(ctx).replace(" [OPTIONS]", "")
            raise typer.BadParameter(f"{name} is missing: add it, as in {example}", ctx=ctx)
        return parameter.callback(ctx, parameter, value) if parameter.callback else value

    parameter.process_value = process_value


def usage_line(ctx: typer.Context) -> str:
    """Return the usage line of a command, in the same format with every release of Typer."""
    pieces = [ctx.command_path, "[OPTIONS]"]
    for parameter in ctx.command.params:
        if parameter.param_type_name == "argument":
            name = str(parameter.metavar or parameter.name)
            pieces.append(name + ("..." if parameter.nargs == -1 else ""))
    return " ".join([*pieces, *(["COMMAND [ARGS]..."] if isinstance(ctx.command, TyperGroup) else [])])
