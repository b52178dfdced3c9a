"""`forgather dataset`: ls, show."""

from __future__ import annotations

from typing import Annotated

import typer

from .completion import chat_templates, project_configurations, projects, tokenizers
from .counts import whole
from .dynamic import PlainCommand, PlainGroup
from .model import HELP

app = typer.Typer(
    cls=PlainGroup,
    no_args_is_help=True,
    rich_markup_mode=None,
    context_settings=HELP,
    help="List dataset projects, and look into them.",
)


PROJECT = "Directory with YAML files, or a built-in name: stdlib"
Json = Annotated[bool, typer.Option("--json", help="Print as JSON")]


@app.command(cls=PlainCommand, context_settings=HELP)
def ls(
    project: Annotated[str | None, typer.Argument(metavar="[PROJECT]", help=PROJECT, autocompletion=projects)] = None,
    json: Json = False,
) -> None:
    """List the configurations of a dataset project; without one, the built-in projects."""
    from forgather_core.data.describe import list_datasets

    from . import data_drawings
    from .render import show

    report = list_datasets(project)
    show(report, data_drawings.datasets(report), as_json=json)


@app.command("show", cls=PlainCommand, context_settings=HELP)
def show_dataset(
    project: Annotated[str, typer.Argument(metavar="PROJECT", help=PROJECT, autocompletion=projects)],
    config: Annotated[
        str | None,
        typer.Option(
            "--config",
            metavar="NAME",
            help="Its configuration (default: default, or the only one)",
            autocompletion=project_configurations,
        ),
    ] = None,
    tokenizer: Annotated[
        str,
        typer.Option(
            "--tokenizer",
            metavar="NAME",
            help="Shipped tokenizer, directory, or hub id",
            autocompletion=tokenizers,
        ),
    ] = "bpe-8k",
    chat_template: Annotated[
        str | None,
        typer.Option(
            "--chat-template",
            metavar="NAME",
            help="For messages: a Jinja file or chatml",
            autocompletion=chat_templates,
        ),
    ] = None,
    examples: Annotated[str, typer.Option("--examples", metavar="N", help="How many documents are printed")] = "3",
    limit: Annotated[
        str, typer.Option("--limit", metavar="N", help="How many documents are read and counted, or all")
    ] = "1000",
    json: Json = False,
) -> None:
    """Show a dataset's columns, count its documents and tokens, and print the first ones as a model gets them."""
    most = None if limit == "all" else whole(limit, "--limit")
    shown = whole(examples, "--examples", least=0)

    from forgather_core.data.describe import describe_dataset

    from . import data_drawings, progress
    from .render import show

    with progress.spinner() as tell:
        report = describe_dataset(
            project,
            config,
            tokenizer=tokenizer,
            chat_template=chat_template,
            examples=shown,
            limit=most,
            on_progress=tell and (lambda count: tell(f"{count:,} documents")),
        )
    show(report, data_drawings.dataset(report), as_json=json)
