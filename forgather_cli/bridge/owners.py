"""Errors about options that a command does not have. They list the commands that have the option."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import typer

from forgather_core.definitions.registry import SHARED_OPTIONS, registry
from forgather_core.errors import ForgatherError
from forgather_core.options.command_options import VerifyOptions
from forgather_core.options.scope import commands_of, joined, no_effect, refuse_other_commands, refuse_without_effect
from forgather_core.options.shared import OutputOptions
from forgather_core.options.spec import did_you_mean, flag_of, specs_of

from .session import CHOOSE, Session

_SIMILARITY = 0.7  # flags share words such as size: below this, similar flags mean something else


def option_of_other_commands(ctx: typer.Context, flag: str) -> ForgatherError | None:
    """Return an error that lists the commands with the option `flag`, or None if no command has it."""
    owners = [*_model_commands(flag), *_plain_commands(ctx.find_root().command, ctx.find_root(), flag)]
    if not owners:
        return None
    command = ctx.command_path.partition(" ")[2] or "forgather"
    return no_effect(flag, command, dict.fromkeys(owners))


def no_such_option(flag: str, known: Iterable[str], otherwise: str | None = None) -> ForgatherError:
    """Return the error about an option that no command has.

    Args:
        flag: The option.
        known: The options of the command.
        otherwise: The hint if none of them is similar.
    """
    hint = did_you_mean(flag, known, "{}", similarity=_SIMILARITY) or otherwise
    return ForgatherError("does not exist", option=flag, hint=hint)


def list_options_hint(command: str) -> str:
    """Return the hint for an option that does not exist, given the command as the user typed it."""
    return f"list the options with {command} --help"


def _model_commands(flag: str) -> Iterator[str]:
    for group in SHARED_OPTIONS:
        for spec in specs_of(group):
            if flag in (*spec.flags, *map(flag_of, spec.aliases)):
                yield from (f"model {command}" for command in commands_of(spec))


def _plain_commands(group: Any, ctx: Any, flag: str, path: str = "") -> Iterator[str]:
    for name in group.list_commands(ctx):
        command = group.get_command(ctx, name)
        if hasattr(command, "list_commands"):
            if name != "model":  # its options are the shared options
                yield from _plain_commands(command, ctx, flag, f"{path}{name} ")
        elif any(flag in (*spec.flags, *map(flag_of, spec.aliases)) for spec in command.specs):
            yield path + name


def unknown_option(ctx: typer.Context, session: Session, flag: str) -> ForgatherError:
    """Return the error about an option that a command of `forgather model` does not have."""
    if flag in {"-t", "--template", "-p", "--project"}:
        example = f"forgather {flag} {'NAME' if 't' in flag else 'DIR'} model ..."
        return ForgatherError("must come before 'model'", option=flag, hint=example)
    known = [spelling for spec in session.specs for spelling in spec.flags]
    name = session.configuration.definition.name if session.configuration is not None else None
    owners = [
        other.name
        for other in registry().definitions()
        if other.name != name and any(spec.flag == flag for spec in specs_of(other.options))
    ]
    if not owners and (elsewhere := option_of_other_commands(ctx, flag)):
        return elsewhere
    if name is None:
        if owners:
            hint = "choose one of them with -t before 'model'"
            return ForgatherError(f"is an option of {joined(owners)}", option=flag, hint=hint)
        return no_such_option(flag, known, CHOOSE)
    if owners:
        hint = f"remove it, or use it with {joined(owners, 'or')}"
        return ForgatherError(f"is not an option of '{name}'", option=flag, hint=hint)
    return no_such_option(flag, known, list_options_hint(ctx.command_path))


def refuse_in_listing(session: Session) -> None:
    """Refuse options that do not affect a list of checks.

    Raises:
        ForgatherError: An option only affects running checks, or requires a model, and there is none.
    """
    specs = session.given_specs()
    refuse_other_commands("verify", specs)
    refuse_without_effect("verify", specs, {spec.name: spec.default for spec in session.specs} | session.given)
    without_model = {spec.name for group in (VerifyOptions, OutputOptions) for spec in specs_of(group)}
    for spec in specs if session.configuration is None else ():
        if spec.name not in without_model:
            raise ForgatherError("requires -t", option=spec.flag, hint=CHOOSE)
