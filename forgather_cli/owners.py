"""Find the commands that have an option, for errors about an option that a command does not have."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import typer

from forgather_core.definitions.registry import SHARED_OPTIONS, registry
from forgather_core.options.scope import commands_of, joined
from forgather_core.options.spec import did_you_mean, flag_of, specs_of

from .session import CHOOSE, Session


def other_commands(ctx: typer.Context, flag: str) -> str | None:
    """Return an error that lists the commands with the option `flag`, or None if no command has it."""
    owners = [*_model_commands(flag), *_plain_commands(ctx.find_root().command, ctx.find_root(), flag)]
    if not owners:
        return None
    command = ctx.command_path.partition(" ")[2] or "forgather"
    return f"{flag} has no effect on '{command}'; it belongs to {joined(repr(name) for name in dict.fromkeys(owners))}"


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
        elif any(flag in (*p.opts, *p.secondary_opts) for p in command.params if p.param_type_name != "argument"):
            yield path + name


def unknown_option(ctx: typer.Context, session: Session, flag: str) -> str:
    """Return the error about an option that a command of `forgather model` does not have."""
    if flag in {"-t", "--template", "-p", "--project"}:
        return f"{flag} goes before 'model': forgather {flag} {'NAME' if 't' in flag else 'DIR'} model ..."
    known = [spelling for spec in session.specs for spelling in spec.flags]
    hint = did_you_mean(flag, known, "{}")
    name = session.configuration.definition.name if session.configuration is not None else None
    owners = [
        other.name
        for other in registry().definitions()
        if other.name != name and any(spec.flag == flag for spec in specs_of(other.options))
    ]
    if not owners and (elsewhere := other_commands(ctx, flag)):
        return elsewhere
    if name is None:
        if owners:
            return f"{flag} belongs to: {', '.join(owners)}; choose a definition with -t before 'model'"
        return f"No such option: {flag}{hint}" + ("" if hint else f"; {CHOOSE}")
    if owners:
        return f"'{name}' has no option {flag} (it belongs to: {', '.join(owners)})"
    return f"No such option: {flag}{hint}"
