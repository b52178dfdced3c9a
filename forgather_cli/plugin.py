"""`forgather plugin`: new."""

from __future__ import annotations

from typing import Annotated

import typer

from forgather_core.options.plain_options import NewPluginOptions
from forgather_core.options.shared import JsonOptions

from .bridge.plain import PlainGroup, given, with_options
from .model import CONTEXT_SETTINGS
from .output import Output

app = typer.Typer(
    cls=PlainGroup,
    no_args_is_help=True,
    rich_markup_mode=None,
    context_settings=CONTEXT_SETTINGS,
    help="Create plugins.",
)


@app.callback()
def plugin() -> None:
    """Create plugins."""


@app.command(cls=with_options(NewPluginOptions, JsonOptions), context_settings=CONTEXT_SETTINGS)
def new(
    ctx: typer.Context,
    name: Annotated[str, typer.Argument(metavar="NAME", help="Name of the definition, such as my_model")],
) -> None:
    """Create a plugin package: a working model definition with tests and a preset, as a starting point."""
    from .views.plugin import package

    output = Output(package, given(ctx, JsonOptions))
    import forgather

    output.emit(forgather.new_plugin(name, **given(ctx, NewPluginOptions)))
