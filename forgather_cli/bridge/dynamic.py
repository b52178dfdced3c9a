"""Commands whose options depend on `-t`, and their help pages, built on two methods of Typer's command classes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup

from forgather_core.definitions.registry import registry
from forgather_core.errors import ForgatherError
from forgather_core.options.command_options import ESTIMATE, SHOW, STEP, TEST, VERIFY
from forgather_core.options.train_options import DATA, OPTIMIZATION, RUN

from .help_page import about, arguments_of, explanation, names_of, page
from .options import given_values, skip_conversion, usage_line
from .printable_logs import PrintableLogs
from .session import Session


class DynamicOptions:
    """Accept the options of the definition that `-t` names. A mix-in: list it before TyperGroup or TyperCommand."""

    first_groups: tuple[str, ...] = ()  # titles that --help shows first

    def get_params(self, ctx: typer.Context) -> list[Any]:
        """Return the parameters of the command and the dynamic ones; the same objects at each call."""
        own: list[Any] = super().get_params(ctx)  # type: ignore[misc]
        for parameter in own:
            skip_conversion(parameter)
        session = Session.of(ctx)
        if session.parsing_words:
            return own
        command = None if isinstance(self, TyperGroup) else self.name  # type: ignore[attr-defined]
        return [*own[:-1], *session.parameters_of(command).values(), *own[-1:]]

    def parse_args(self, ctx: typer.Context, args: list[str]) -> list[str]:
        """Parse the arguments and store the given values; those after the command take precedence."""
        session = Session.of(ctx)
        if session.error is not None and not ctx.resilient_parsing:
            raise session.error
        only_words = all(word[:1] != "-" or word in ctx.help_option_names for word in args)
        session.parsing_words = only_words
        try:
            remaining: list[str] = super().parse_args(ctx, args)  # type: ignore[misc]
        except Exception as error:
            if not ctx.resilient_parsing and hasattr(error, "option_name") and hasattr(error, "possibilities"):
                raise _unknown(ctx, session, error) from None
            raise
        finally:
            session.parsing_words = False
        if not only_words:
            self._store_values(ctx, session)
        return remaining

    def _store_values(self, ctx: typer.Context, session: Session) -> None:
        """Move the values of dynamic options to the session: the callback has no parameters for them."""
        session.given |= given_values(ctx, session.specs, session.parameters)

    def get_help(self, ctx: typer.Context) -> str:
        """Return the help page."""
        session = Session.of(ctx)
        if session.error is not None:
            raise session.error
        command = None if isinstance(self, TyperGroup) else ctx.info_name
        sections = self._option_sections(session, command)
        if isinstance(self, TyperGroup):
            commands = [(name, about(self.commands[name])) for name in self.list_commands(ctx)]  # type: ignore[arg-type]
            sections.insert(0, ("Commands", commands))
        sections.append(("Help", [("-h, --help", "Show this page")]))
        if arguments := arguments_of(self.params):  # type: ignore[attr-defined]
            sections.insert(0, ("Arguments", arguments))
        usage = usage_line(ctx)
        if session.configuration is not None:
            usage = usage.replace("forgather ", f"forgather -t {ctx.find_root().params['template']} ", 1)
        return page(usage, about(self), sections, self._epilog(session, command))

    def _option_sections(self, session: Session, command: str | None) -> list[tuple[str, Sequence[tuple[str, str]]]]:
        """Return the options of the group, or the shared options that a command uses."""
        values = session.preset_values()
        own_title = "Options of " + (session.configuration.name if session.configuration else "")
        sections: dict[str, list[tuple[str, str]]] = {title: [] for title in self.first_groups}
        for spec in session.specs if command is None else session.of_command(command).values():
            if command is None or spec.info.group is not None:
                row = names_of(spec), explanation(spec, values, command)
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
    """The command `test`. Its own options come first on the help page."""

    first_groups = (STEP, TEST)


class TrainCommand(DynamicCommand):
    """The command `train`. Its own options come first on the help page."""

    first_groups = (DATA, STEP, OPTIMIZATION, RUN)


class EstimateCommand(DynamicCommand):
    """The commands `estimate` and `compare`. Their own options come first on the help page."""

    first_groups = (STEP, ESTIMATE)


class VerifyCommand(DynamicCommand):
    """The command `verify`. Its own options come first on the help page."""

    first_groups = (VERIFY,)


class ShowCommand(DynamicCommand):
    """The command `show`. Its own options come first on the help page."""

    first_groups = (SHOW,)


def _unknown(ctx: typer.Context, session: Session, error: Any) -> ForgatherError:
    from .owners import unknown_option

    return unknown_option(ctx, session, error.option_name)
