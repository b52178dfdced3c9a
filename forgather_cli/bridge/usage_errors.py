"""Typer's usage errors, and their messages with hints."""

from __future__ import annotations

from typing import Any

import typer

from forgather_core.options.scope import MODEL_COMMANDS

from .owners import list_options_hint, no_such_option, option_of_other_commands

# Typer vendors Click, and exports only subclasses of this base class of all usage errors.
UsageError: Any = next(cls for cls in typer.BadParameter.__mro__ if cls.__name__ == "ClickException")


def is_help(error: BaseException) -> bool:
    """Return whether a usage error is a group without a command: its message is the help page."""
    return type(error).__name__ == "NoArgsIsHelpError"


def usage_text(error: Any) -> str:
    """Return the message of a usage error, without Typer's prefix "Invalid value for '--x'", and with a hint."""
    if isinstance(error, typer.BadParameter):
        return str(error.message)
    if hasattr(error, "possibilities"):  # an unknown option
        elsewhere = option_of_other_commands(error.ctx, error.option_name) if error.ctx is not None else None
        command = error.ctx.command_path if error.ctx is not None else "forgather"
        return str(
            elsewhere or no_such_option(error.option_name, error.possibilities or (), list_options_hint(command))
        )
    text: str = error.format_message()
    if "requires an argument" in text:
        return f"{error.option_name} requires a value"
    if text.startswith(("No such command", "Missing command")) and "?" not in text:
        command = error.ctx.command_path if error.ctx is not None else "forgather"
        name = text.partition("'")[2].partition("'")[0]
        if command == "forgather" and name in MODEL_COMMANDS:
            return f"{text.rstrip('.')}: use forgather -t NAME model {name}"
        return f"{text.rstrip('.')}: list the commands with {command} --help"
    if "does not take a value" in text:
        return f"{text.rstrip('.')}: remove the value"
    if text.startswith("Got unexpected extra argument"):
        words = text.partition("(")[2].rpartition(")")[0].removeprefix("s) (")
        return f"unexpected argument{'s' if ' ' in words else ''} '{words}': remove {'them' if ' ' in words else 'it'}"
    return text
