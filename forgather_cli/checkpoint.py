"""`forgather checkpoint`: inspect, convert."""

from __future__ import annotations

from functools import partial
from typing import Annotated

import typer

from forgather_core.options.plain_options import ConvertOptions, InspectOptions, InspectViewOptions
from forgather_core.options.shared import OutputOptions

from .bridge.plain import PlainGroup, given, with_options
from .model import CONTEXT_SETTINGS
from .output import Output

app = typer.Typer(
    cls=PlainGroup,
    no_args_is_help=True,
    rich_markup_mode=None,
    context_settings=CONTEXT_SETTINGS,
    help="Inspect and convert checkpoints.",
)


@app.command(cls=with_options(InspectOptions, InspectViewOptions, OutputOptions), context_settings=CONTEXT_SETTINGS)
def inspect(
    ctx: typer.Context,
    path: Annotated[str, typer.Argument(metavar="DIR", help="Directory, weight file, index, or a Hub id")],
) -> None:
    """Show the contents of a checkpoint, read from its headers: tensors, shapes, dtypes, files, problems."""
    from .views import checkpoint as views

    show_all = given(ctx, InspectViewOptions).get("all", False)
    output = Output(partial(views.inspection, show_all=show_all), given(ctx, OutputOptions))
    import forgather

    from . import progress

    with progress.bytes_bar("verifying") as bar:
        callbacks = forgather.Progress(verifying=bar)
        result = forgather.inspect_checkpoint(path, progress=callbacks, **given(ctx, InspectOptions))
    output.emit(result)


@app.command(cls=with_options(ConvertOptions, OutputOptions), context_settings=CONTEXT_SETTINGS)
def convert(
    ctx: typer.Context,
    source: Annotated[str, typer.Argument(metavar="SRC", help="Directory, weight file, index, or a Hub id")],
    target: Annotated[str, typer.Argument(metavar="DST", help="New directory; equal to SRC converts in place")],
) -> None:
    """Convert a checkpoint to another format, dtype or shard size, one tensor at a time; other files are copied."""
    from .views import checkpoint as views

    output = Output(views.conversion, given(ctx, OutputOptions))
    import forgather

    from . import progress

    with progress.bytes_bar("verifying") as verifying, progress.bytes_bar("converting") as converting:
        callbacks = forgather.Progress(verifying=verifying, saving=converting)
        report = forgather.convert_checkpoint(source, target, progress=callbacks, **given(ctx, ConvertOptions))
    output.emit(report)
