"""`forgather plugin`: new."""

from __future__ import annotations

from typing import Annotated

import typer

from .dynamic import PlainCommand, PlainGroup
from .model import HELP

app = typer.Typer(
    cls=PlainGroup,
    no_args_is_help=True,
    rich_markup_mode=None,
    context_settings=HELP,
    help="Create plugins.",
)


@app.callback()
def plugin() -> None:
    """Create plugins."""


@app.command(cls=PlainCommand, context_settings=HELP)
def new(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Name of the definition, such as my_model")],
    output_dir: Annotated[
        str | None,
        typer.Option("-o", "--output-dir", metavar="DIR", help="New directory (default: forgather-NAME)"),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print as JSON")] = False,
) -> None:
    """Create a plugin package: a working model definition with tests and a preset, as a starting point."""
    from forgather_core.scaffold import new_plugin

    from .render import show
    from .views.plugin import package

    report = new_plugin(name, output_dir)
    show(report, package(report), as_json=json)
