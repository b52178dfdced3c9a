"""Commands whose options depend on `-t`, and their help pages, built on two methods of Typer's command classes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup

from forgather_core.definitions.registry import registry
from forgather_core.errors import ForgatherError
from forgather_core.options.aliases import former_names, warn_renamed
from forgather_core.options.command_options import ESTIMATE, SHOW, STEP, TEST, VERIFY
from forgather_core.options.spec import OptionSpec, flag_of

from .help_page import page
from .messages import PrintableLogs
from .options import CliValue, shown_default, skip_conversion, usage_line
from .session import Session


class DynamicOptions:
    """Mix-in before TyperGroup or TyperCommand."""

    first_groups: tuple[str, ...] = ()  # titles that --help shows first

    def get_params(self, ctx: typer.Context) -> list[Any]:
        """Return the parameters of the command and the dynamic ones; the same objects at each call."""
        own = super().get_params(ctx)  # type: ignore[misc]
        for parameter in own:
            skip_conversion(parameter)
        session = Session.of(ctx)
        return own if session.parsing_words else [*own[:-1], *session.parameters.values(), *own[-1:]]

    def parse_args(self, ctx: typer.Context, args: list[str]) -> list[str]:
        """Parse the arguments and store the given values; those after the command take precedence."""
        session = Session.of(ctx)
        if session.error is not None and not ctx.resilient_parsing:
            raise session.error
        only_words = all(word[:1] != "-" or word in ctx.help_option_names for word in args)
        session.parsing_words = only_words
        try:
            rest: list[str] = super().parse_args(ctx, args)  # type: ignore[misc]
        except Exception as error:
            if not ctx.resilient_parsing and hasattr(error, "option_name") and hasattr(error, "possibilities"):
                raise _unknown(ctx, session, error) from None
            raise
        finally:
            session.parsing_words = False
        if not only_words:
            self._store_values(ctx, session)
        return rest

    def _store_values(self, ctx: typer.Context, session: Session) -> None:
        """Move the values of dynamic options to the session: the callback has no parameters for them."""
        values = {name: ctx.params.pop(name, None) for name in session.parameters}
        given = {name: value.value for name, value in values.items() if isinstance(value, CliValue)}
        for old, spec in former_names(session.specs).items():
            if old not in given:
                continue
            if spec.name in given:
                problem = f"is the former name of {spec.flag}, which is also set"
                raise ForgatherError(problem, option=flag_of(old), hint="use one of them")
            if not ctx.resilient_parsing:
                warn_renamed(spec.flag, option=flag_of(old))
            given[spec.name] = given.pop(old)
        session.given |= given

    def get_help(self, ctx: typer.Context) -> str:
        """Return the help page."""
        session = Session.of(ctx)
        if session.error is not None:
            raise session.error
        command = None if isinstance(self, TyperGroup) else ctx.info_name
        sections = self._option_sections(session, command)
        if isinstance(self, TyperGroup):
            commands = [(name, _about(self.commands[name])) for name in self.list_commands(ctx)]  # type: ignore[arg-type]
            sections.insert(0, ("Commands", commands))
        sections.append(("Help", [("-h, --help", "Show this page")]))
        if arguments := _arguments(self.params):  # type: ignore[attr-defined]
            sections.insert(0, ("Arguments", arguments))
        usage = usage_line(ctx)
        if session.configuration is not None:
            usage = usage.replace("forgather ", f"forgather -t {ctx.find_root().params['template']} ", 1)
        return page(usage, _about(self), sections, self._epilog(session, command))

    def _option_sections(self, session: Session, command: str | None) -> list[tuple[str, Sequence[tuple[str, str]]]]:
        """Return the options of the group, or the shared options that a command uses."""
        values = session.preset_values()
        own_title = "Options of " + (session.configuration.name if session.configuration else "")
        sections: dict[str, list[tuple[str, str]]] = {title: [] for title in self.first_groups}
        for spec in session.specs if command is None else session.of_command(command).values():
            if command is None or spec.info.group is not None:
                row = _names(spec), _explanation(spec, values)
                sections.setdefault(spec.info.group or own_title, []).append(row)
        return [(title, rows) for title, rows in sections.items() if rows]

    def _epilog(self, session: Session, command: str | None) -> str:
        if command is not None:
            return "The options of the model definition are accepted too: forgather -t NAME model --help."
        if session.configuration is None:
            known = ", ".join(registry().plugins) or "none"
            return f"Each definition has its own options: forgather -t NAME model --help. Installed: {known}."
        return (
            "Options go before or after the command; the last one wins. COMMAND --help lists the options of a command."
        )


class DynamicGroup(DynamicOptions, TyperGroup):
    """A group of commands with dynamic options."""


class DynamicCommand(PrintableLogs, DynamicOptions, TyperCommand):
    """A command that also accepts the options of its group."""


class TestCommand(DynamicCommand):
    """`test`: its own options come first on the help page."""

    first_groups = (STEP, TEST)


class EstimateCommand(DynamicCommand):
    """`estimate` and `compare`: their own options come first on the help page."""

    first_groups = (STEP, ESTIMATE)


class VerifyCommand(DynamicCommand):
    """`verify`: its own options come first on the help page."""

    first_groups = (VERIFY,)


class ShowCommand(DynamicCommand):
    """`show`: its own options come first on the help page."""

    first_groups = (SHOW,)


class PlainPage:
    """Mix-in before TyperGroup or TyperCommand: the same help page, without dynamic options."""

    epilog_text = ""

    def get_params(self, ctx: typer.Context) -> list[Any]:
        """Return Typer's parameters, which pass their text through."""
        return _unconverted(super().get_params(ctx))  # type: ignore[misc]

    def get_help(self, ctx: typer.Context) -> str:
        """Return the help page."""
        shown = [p for p in self.get_params(ctx) if not getattr(p, "hidden", False) and p.name != "help"]
        arguments = _arguments(shown)
        options = [(_plain_names(p), _plain_explanation(p)) for p in shown if p.param_type_name != "argument"]
        sections = [("Arguments", arguments), ("Options", [*options, ("-h, --help", "Show this page")])]
        usage = ctx.command_path + " [OPTIONS]" + "".join(f" {name}" for name, _ in arguments)
        if isinstance(self, TyperGroup):
            commands = [(name, _about(self.commands[name])) for name in self.list_commands(ctx)]  # type: ignore[arg-type]
            sections.insert(0, ("Commands", commands))
            usage += " COMMAND [ARGS]..."
        return page(usage, _about(self), sections, self.epilog_text)


class PlainGroup(PlainPage, TyperGroup):
    """A group of commands without dynamic options."""


class PlainCommand(PrintableLogs, PlainPage, TyperCommand):
    """A command without dynamic options."""


def _arguments(parameters: list[Any]) -> list[tuple[str, str]]:
    """Return names and explanations of the positional arguments."""
    arguments = [p for p in parameters if p.param_type_name == "argument"]
    return [(p.metavar or p.human_readable_name, p.help or "") for p in arguments]


def _plain_names(parameter: Any) -> str:
    names = ", ".join(sorted(parameter.opts, key=len))
    return f"{names} {parameter.metavar}" if parameter.metavar else names


def _plain_explanation(parameter: Any) -> str:
    default = parameter.default
    suffix = f" [{default}]" if isinstance(default, str) else ""
    return (parameter.help or "") + suffix


def _unconverted(parameters: list[Any]) -> list[Any]:
    for parameter in parameters:
        skip_conversion(parameter)
    return parameters


def _about(command: Any) -> str:
    return " ".join((command.help or "").split())


def _names(spec: OptionSpec) -> str:
    names = ", ".join(spec.flags)
    return names if spec.kind is bool else f"{names} {spec.metavar}"


def _explanation(spec: OptionSpec, values: dict[str, Any]) -> str:
    default = shown_default(spec, values)
    return spec.info.help if default is None else f"{spec.info.help} [{default}]"


def _unknown(ctx: typer.Context, session: Session, error: Any) -> ForgatherError:
    from .owners import unknown_option

    return unknown_option(ctx, session, error.option_name)
