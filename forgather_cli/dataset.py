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
    help="List and inspect dataset projects.",
)


PROJECT = "Directory with YAML files, or a built-in name: stdlib"
Json = Annotated[bool, typer.Option("--json", help="Print as JSON")]


@app.command(cls=PlainCommand, context_settings=HELP)
def ls(
    project: Annotated[str | None, typer.Argument(metavar="[PROJECT]", help=PROJECT, autocompletion=projects)] = None,
    json: Json = False,
) -> None:
    """List the configurations of a dataset project, or the built-in projects."""
    from forgather_core.data.describe import list_datasets

    from .render import show
    from .views import data as views

    report = list_datasets(project)
    show(report, views.datasets(report), as_json=json)


@app.command("show", cls=PlainCommand, context_settings=HELP)
def show_dataset(
    project: Annotated[str, typer.Argument(metavar="PROJECT", help=PROJECT, autocompletion=projects)],
    config: Annotated[
        str | None,
        typer.Option(
            "--config",
            metavar="NAME",
            help="Configuration of the project (default: default, or the only one)",
            autocompletion=project_configurations,
        ),
    ] = None,
    tokenizer: Annotated[
        str,
        typer.Option(
            "--tokenizer",
            metavar="NAME",
            help="Shipped tokenizer, directory, or Hub id",
            autocompletion=tokenizers,
        ),
    ] = "bpe-8k",
    chat_template: Annotated[
        str | None,
        typer.Option(
            "--chat-template",
            metavar="NAME",
            help="Chat template for messages: a Jinja file or chatml",
            autocompletion=chat_templates,
        ),
    ] = None,
    examples: Annotated[str, typer.Option("--examples", metavar="N", help="Number of documents to print")] = "3",
    limit: Annotated[
        str, typer.Option("--limit", metavar="N", help="Number of documents to read and count, or all")
    ] = "1000",
    json: Json = False,
) -> None:
    """Show the columns of a dataset, count documents and tokens, and print the first documents as model input."""
    most = None if limit == "all" else whole(limit, "--limit")
    shown = whole(examples, "--examples", least=0)

    from forgather_core.data.describe import describe_dataset

    from . import progress
    from .render import show
    from .views import data as views

    with progress.spinner() as spin:
        report = describe_dataset(
            project,
            config,
            tokenizer=tokenizer,
            chat_template=chat_template,
            examples=shown,
            limit=most,
            on_progress=spin and (lambda count: spin(f"{count:,} documents")),
        )
    show(report, views.dataset(report), as_json=json)
