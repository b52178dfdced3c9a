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
    help="Write plugins.",
)


@app.callback()
def plugin() -> None:
    """Write plugins."""


@app.command(cls=PlainCommand, context_settings=HELP)
def new(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Name of its definition, such as my_model")],
    output_dir: Annotated[
        str | None,
        typer.Option("-o", "--output-dir", metavar="DIR", help="New directory (default: forgather-NAME)"),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print as JSON")] = False,
) -> None:
    """Write a package with a model definition that works, its tests and a preset: yours to change."""
    from forgather_core.scaffold import new_plugin

    from . import plugin_drawings
    from .render import show

    report = new_plugin(name, output_dir)
    show(report, plugin_drawings.package(report), as_json=json)
