"""A group whose commands are imported on demand, with the options that install shell completion."""

from __future__ import annotations

import importlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar

import typer.main

from forgather_core.errors import ForgatherError
from forgather_core.options.spec import did_you_mean

from ..completion import SHELLS
from .plain import PlainGroup

_COMPLETION = {
    "install_completion": f"Install shell completion (default: the current shell): {', '.join(SHELLS)}",
    "show_completion": "Print the completion script of a shell (default: the current shell)",
}


class LazyGroup(PlainGroup):
    """The group of the root.

    Attributes:
        package: The package of the modules in `lazy`.
        lazy: The modules that are imported on demand, by command.
        order: The commands, in the order of the help page.
    """

    package: ClassVar[str | None] = None
    lazy: ClassVar[Mapping[str, str]] = {}
    order: ClassVar[Sequence[str]] = ()

    def get_command(self, ctx: Any, name: str) -> Any:
        """Return the command `name`."""
        if name not in self.commands:
            self._add([name] if name in self.lazy else self.lazy)  # a misspelt name is compared with all commands
        return super().get_command(ctx, name)

    def list_commands(self, ctx: Any) -> list[str]:
        """Return the names of all commands."""
        self._add(self.lazy)
        return sorted(super().list_commands(ctx), key=self.order.index)

    def get_params(self, ctx: Any) -> list[Any]:
        """Return the options of the root; the help of the completion options states that they accept a shell."""
        parameters = super().get_params(ctx)
        for parameter in parameters:
            if parameter.name in _COMPLETION:
                parameter.metavar, parameter.help = "[SHELL]", _COMPLETION[parameter.name]
        return parameters

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse the arguments. The completion options accept a shell, which Typer would read as a command."""
        flag, equals, shell = args[0].partition("=") if args else ("", "", "")
        name = flag[2:].replace("-", "_")
        if flag[:2] == "--" and name in _COMPLETION and not ctx.resilient_parsing and (equals or len(args) > 1):
            _complete_shell(ctx, flag, shell if equals else args[1])
        return super().parse_args(ctx, args)

    def _add(self, names: Iterable[str]) -> None:
        for name in names:
            if name not in self.commands:
                group = typer.main.get_group(importlib.import_module(f".{self.lazy[name]}", self.package).app)
                self.commands[name] = group.commands.get(name, group)


def _complete_shell(ctx: Any, flag: str, shell: str) -> None:
    """Install or print completion for a shell, and exit."""
    from typer.completion import install_callback, show_callback

    if shell not in SHELLS:
        problem = f"must be one of {', '.join(SHELLS)}; got '{shell}'"
        raise ForgatherError(problem, option=flag, hint=did_you_mean(shell, SHELLS))
    (install_callback if flag == "--install-completion" else show_callback)(ctx, None, shell)  # type: ignore[arg-type]
