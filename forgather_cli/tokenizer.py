"""`forgather tokenizer`: train."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from .completion import project_configurations, projects
from .counts import whole
from .dataset import PROJECT
from .dynamic import PlainCommand, PlainGroup
from .model import HELP

REQUIRED = " [required]"

app = typer.Typer(
    cls=PlainGroup,
    no_args_is_help=True,
    rich_markup_mode=None,
    context_settings=HELP,
    help="Train tokenizers.",
)


@app.callback()
def tokenizer() -> None:
    """Train tokenizers."""


@app.command(cls=PlainCommand, context_settings=HELP)
def train(
    dataset_project: Annotated[
        str,
        typer.Option("--dataset-project", metavar="PROJECT", help=PROJECT + REQUIRED, autocompletion=projects),
    ],
    vocab_size: Annotated[
        str,
        typer.Option("--vocab-size", metavar="N", help="Vocabulary size: special tokens, 256 bytes, merges" + REQUIRED),
    ],
    output_dir: Annotated[str, typer.Option("-o", "--output-dir", metavar="DIR", help="New directory" + REQUIRED)],
    dataset_config: Annotated[
        str | None,
        typer.Option(
            "--dataset-config",
            metavar="NAME",
            help="Configuration of the dataset project",
            autocompletion=project_configurations,
        ),
    ] = None,
    model_max_length: Annotated[
        str, typer.Option("--model-max-length", metavar="N", help="Maximum length of a text, in tokens")
    ] = "2048",
    json: Annotated[bool, typer.Option("--json", help="Print as JSON")] = False,
) -> None:
    """Train a byte-level BPE tokenizer on a dataset project, for use with --tokenizer."""
    entries = whole(vocab_size, "--vocab-size")
    longest = whole(model_max_length, "--model-max-length")

    from forgather_core.commands.train_tokenizer import make_tokenizer

    from .render import show
    from .views import data as views

    report = make_tokenizer(
        dataset_project,
        dataset_config,
        vocab_size=entries,
        directory=Path(output_dir),
        model_max_length=longest,
        progress=sys.stderr.isatty(),
    )
    show(report, views.tokenizer(report), as_json=json)
