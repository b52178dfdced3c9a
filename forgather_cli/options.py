"""Options of dataclasses as Typer parameters, made through Typer's public door."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping
from typing import Annotated, Any

import typer
import typer.main

from forgather_core.options.spec import OptionSpec

from .completion import IS_COMPLETING, completion_of


def typer_parameters(specs: Iterable[OptionSpec]) -> dict[str, Any]:
    """Make one Typer parameter for each option, by name.

    A function with the options as its signature is handed to Typer, which makes the parameters; conversion is ours, so
    that messages are the same on every release of Typer, and nobody pays for its type adapters.
    """
    specs = list(specs)
    annotations = {spec.name: Annotated[_cli_type(spec), _declaration(spec)] for spec in specs}

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
    by_name = {spec.name: spec for spec in specs}
    made = {p.name: p for p in typer.main.get_command(app).params if p.name in by_name}
    for name, parameter in made.items():
        _convert_with(parameter, by_name[str(name)])
    return {str(name): parameter for name, parameter in made.items()}


def _cli_type(spec: OptionSpec) -> Any:
    return bool | None if spec.kind is bool else str | None


def _declaration(spec: OptionSpec) -> Any:
    more: dict[str, Any] = {}
    if IS_COMPLETING and (complete := completion_of(spec)) is not None:
        more["autocompletion"] = complete
    if spec.kind is not bool:
        more["metavar"] = spec.metavar
    flag = f"{spec.flag}/{spec.negation}" if spec.negation else spec.flag
    return typer.Option(flag, *spec.info.flags, help=spec.info.help, show_default=False, **more)


def _convert_with(parameter: Any, spec: OptionSpec) -> None:
    def process_value(ctx: typer.Context, value: Any) -> Any:
        if value is None:
            return None  # nobody gave it
        try:
            return CliValue(spec.convert(value))
        except ValueError as error:
            raise typer.BadParameter(f"{given_flag(parameter, spec)}: {error}", ctx=ctx) from None

    parameter.process_value = process_value


def given_flag(parameter: Any, spec: OptionSpec) -> str:
    """The flag in full, for a message."""
    return spec.flag if spec.flag in parameter.opts else parameter.opts[0]


class CliValue:
    """A value that stood on the command line: null is a value there."""

    def __init__(self, value: Any) -> None:
        self.value = value


def skip_conversion(parameter: Any) -> None:
    """Let an option of Typer's own making pass its text through: no type adapter is built for it."""
    if getattr(parameter, "forgather_plain", False):
        return
    parameter.forgather_plain = True

    def process_value(ctx: typer.Context, value: Any) -> Any:
        if parameter.required and not ctx.resilient_parsing and parameter.value_is_missing(value):
            is_option = parameter.param_type_name != "argument"
            what = (
                f"option {max(parameter.opts, key=len)}"
                if is_option
                else f"argument {parameter.metavar or parameter.name}"
            )
            message = f"Missing {what}: {usage_line(ctx)}"
            raise typer.BadParameter(message, ctx=ctx)
        return parameter.callback(ctx, parameter, value) if parameter.callback else value

    parameter.process_value = process_value


def usage_line(ctx: typer.Context) -> str:
    """How a command is called, without the braces that Typer puts around what must be given."""
    return " ".join([ctx.command_path, *ctx.command.collect_usage_pieces(ctx)]).translate({0x7B: "", 0x7D: ""})


def shown_default(spec: OptionSpec, values: Mapping[str, Any]) -> str | None:
    """The default as a help page shows it, the preset's where it sets one; None where there is nothing to show."""
    value = values.get(spec.name, spec.default)
    if spec.kind is bool and not spec.info.negatable:
        return None
    if value is None:
        return "null" if spec.name in values else None
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {item}" for key, item in value.items()) + "}"
    return str(value).lower() if isinstance(value, bool) else str(value)
