"""Commands and groups outside `forgather model`, with the options of dataclasses."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup

from forgather_core.options.spec import OptionSpec, specs_of

from .help_page import about, arguments_of, explanation, names_of, page
from .options import given_values, skip_conversion, typer_parameters, usage_line
from .printable_logs import PrintableLogs

_GIVEN = "forgather.given"


class PlainPage:
    """Format the help page of a command or group. A mix-in: list it before TyperGroup or TyperCommand."""

    epilog_text = ""

    def get_params(self, ctx: typer.Context) -> list[Any]:
        """Return Typer's parameters, without Typer's conversion of their values."""
        parameters: list[Any] = super().get_params(ctx)  # type: ignore[misc]
        for parameter in parameters:
            skip_conversion(parameter)
        return parameters

    def get_help(self, ctx: typer.Context) -> str:
        """Return the help page."""
        own: list[Any] = PlainPage.get_params(self, ctx)
        arguments = arguments_of(own)
        options = [*self._option_rows(own), ("-h, --help", "Show this page")]
        sections: list[tuple[str, Sequence[tuple[str, str]]]] = [("Arguments", arguments), ("Options", options)]
        if isinstance(self, TyperGroup):
            commands = [(name, about(self.commands[name])) for name in self.list_commands(ctx)]  # type: ignore[arg-type]
            sections.insert(0, ("Commands", commands))
        return page(usage_line(ctx), about(self), sections, self.epilog_text)

    def _option_rows(self, own: list[Any]) -> list[tuple[str, str]]:
        shown = [p for p in own if not p.hidden and p.name != "help"] if isinstance(self, TyperGroup) else []
        return [(_spellings(parameter), parameter.help or "") for parameter in shown]


class PlainGroup(PlainPage, TyperGroup):
    """A group of commands without dynamic options."""


class PlainCommand(PrintableLogs, PlainPage, TyperCommand):
    """A command whose options are those of dataclasses; see `with_options`."""

    option_groups: tuple[type, ...] = ()

    @cached_property
    def specs(self) -> list[OptionSpec]:
        """The specs of all options of the command, in the order of `option_groups`."""
        return [spec for group in self.option_groups for spec in specs_of(group)]

    @cached_property
    def _parameters(self) -> dict[str, Any]:
        return typer_parameters(self.specs)

    def get_params(self, ctx: typer.Context) -> list[Any]:
        """Return the arguments, the options and `--help`."""
        own = super().get_params(ctx)
        return [*own[:-1], *self._parameters.values(), *own[-1:]]

    def parse_args(self, ctx: typer.Context, args: list[str]) -> list[str]:
        """Parse the arguments, and store the given options for the function `given`."""
        remaining = super().parse_args(ctx, args)
        ctx.meta[_GIVEN] = given_values(ctx, self.specs, self._parameters)
        return remaining

    def _option_rows(self, own: list[Any]) -> list[tuple[str, str]]:
        return [(names_of(spec), explanation(spec, {})) for spec in self.specs]


def with_options(*groups: type) -> type[PlainCommand]:
    """Return a class of commands with the options of dataclasses, for `app.command(cls=...)`."""
    return type("PlainCommand", (PlainCommand,), {"option_groups": groups})


def given(ctx: typer.Context, *groups: type) -> dict[str, Any]:
    """Return the options given on the command line, by name.

    Args:
        ctx: The context of the command.
        groups: Dataclasses whose options are returned.
    """
    names = {spec.name for group in groups for spec in specs_of(group)}
    return {name: value for name, value in ctx.meta[_GIVEN].items() if name in names}


def _spellings(parameter: Any) -> str:
    names = ", ".join(sorted(parameter.opts, key=len))
    return f"{names} {parameter.metavar}" if parameter.metavar else names
