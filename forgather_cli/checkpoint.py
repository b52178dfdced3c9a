"""`forgather checkpoint`: inspect, convert."""

from __future__ import annotations

from typing import Annotated

import typer

from .completion import dtypes, formats
from .dynamic import PlainCommand, PlainGroup
from .model import HELP

app = typer.Typer(
    cls=PlainGroup,
    no_args_is_help=True,
    rich_markup_mode=None,
    context_settings=HELP,
    help="Inspect and convert checkpoints.",
)

Verify = Annotated[bool, typer.Option("--verify-checksums", help="Compare every file with its recorded checksum")]
Json = Annotated[bool, typer.Option("--json", help="Print as JSON")]


@app.command(cls=PlainCommand, context_settings=HELP)
def inspect(
    path: Annotated[str, typer.Argument(metavar="DIR", help="Directory, weight file, index, or a Hub id")],
    verify_checksums: Verify = False,
    every: Annotated[bool, typer.Option("--all", help="List every tensor instead of one row for all layers")] = False,
    json: Json = False,
) -> None:
    """Show the contents of a checkpoint, read from its headers: tensors, shapes, dtypes, files, problems."""
    from forgather_core.checkpoint import inspect_checkpoint

    from . import progress
    from .render import show
    from .views import checkpoint as views

    with progress.bytes_bar("verifying") as bar:
        report = inspect_checkpoint(path, verify_checksums=verify_checksums, on_progress=bar)
    show(report, views.inspection(report, every=every), as_json=json)


@app.command(cls=PlainCommand, context_settings=HELP)
def convert(
    source: Annotated[str, typer.Argument(metavar="SRC", help="Directory, weight file, index, or a Hub id")],
    target: Annotated[str, typer.Argument(metavar="DST", help="New directory; equal to SRC converts in place")],
    format: Annotated[
        str | None,
        typer.Option(
            "--format",
            metavar="FORMAT",
            help="safetensors or bin (default: that of SRC)",
            autocompletion=formats,
        ),
    ] = None,
    dtype: Annotated[
        str | None,
        typer.Option(
            "--dtype",
            metavar="DTYPE",
            help="New dtype of tensors that have the most common dtype",
            autocompletion=dtypes,
        ),
    ] = None,
    keep: Annotated[
        str | None,
        typer.Option("--keep", metavar="PATTERN", help="Regular expression for tensors that keep their dtype"),
    ] = None,
    max_shard_size: Annotated[
        str, typer.Option("--max-shard-size", metavar="SIZE", help="Maximum size of each weight file")
    ] = "5GB",
    verify_checksums: Verify = False,
    json: Json = False,
) -> None:
    """Convert a checkpoint to another format, dtype or shard size, one tensor at a time; other files are copied."""
    from forgather_core.checkpoint import convert_checkpoint

    from . import progress
    from .render import show
    from .views import checkpoint as views

    with progress.bytes_bar("verifying") as verifying, progress.bytes_bar("converting") as converting:
        made = convert_checkpoint(
            source,
            target,
            format=format,
            dtype=dtype,
            keep=keep,
            max_shard_size=max_shard_size,
            verify_checksums=verify_checksums,
            on_verify=verifying,
            on_progress=converting,
        )
    report = made.as_dict()
    show(report, views.conversion(report), as_json=json)
