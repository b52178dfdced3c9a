"""`forgather dataset`: ls, show."""

from __future__ import annotations

from typing import Annotated

import typer

from forgather_core.options.plain_options import DescribeDatasetOptions
from forgather_core.options.shared import DATASET_PROJECTS, OutputOptions

from .bridge.plain import PlainGroup, given, with_options
from .completion import projects
from .model import CONTEXT_SETTINGS
from .output import Output

app = typer.Typer(
    cls=PlainGroup,
    no_args_is_help=True,
    rich_markup_mode=None,
    context_settings=CONTEXT_SETTINGS,
    help="List and inspect dataset projects.",
)

_PROJECT = f"Dataset project: {DATASET_PROJECTS}"


@app.command(cls=with_options(OutputOptions), context_settings=CONTEXT_SETTINGS)
def ls(
    ctx: typer.Context,
    project: Annotated[str | None, typer.Argument(metavar="[PROJECT]", help=_PROJECT, autocompletion=projects)] = None,
) -> None:
    """List the configurations of a dataset project, or the built-in projects."""
    from .views import data as views

    output = Output(views.datasets, given(ctx, OutputOptions))
    import forgather

    output.emit(forgather.list_datasets(project))


@app.command("show", cls=with_options(DescribeDatasetOptions, OutputOptions), context_settings=CONTEXT_SETTINGS)
def show_dataset(
    ctx: typer.Context,
    project: Annotated[str, typer.Argument(metavar="PROJECT", help=_PROJECT, autocompletion=projects)],
) -> None:
    """Show the columns of a dataset, count documents and tokens, and print the first documents as model input."""
    from .views import data as views

    output = Output(views.dataset, given(ctx, OutputOptions))
    import forgather

    from . import progress

    with progress.spinner() as spin:
        callbacks = forgather.Progress(item=spin)
        result = forgather.describe_dataset(project, progress=callbacks, **given(ctx, DescribeDatasetOptions))
    output.emit(result)
