"""`forgather tokenizer`: train."""

from __future__ import annotations

import sys

import typer

from forgather_core.options.plain_options import TrainTokenizerOptions
from forgather_core.options.shared import JsonOptions

from .bridge.plain import PlainGroup, given, with_options
from .model import CONTEXT_SETTINGS
from .output import Output

app = typer.Typer(
    cls=PlainGroup,
    no_args_is_help=True,
    rich_markup_mode=None,
    context_settings=CONTEXT_SETTINGS,
    help="Train tokenizers.",
)


@app.callback()
def tokenizer() -> None:
    """Train tokenizers."""


@app.command(cls=with_options(TrainTokenizerOptions, JsonOptions), context_settings=CONTEXT_SETTINGS)
def train(ctx: typer.Context) -> None:
    """Train a byte-level BPE tokenizer on a dataset project, for use with --tokenizer."""
    from .views import data as views

    output = Output(views.tokenizer, given(ctx, JsonOptions))
    import forgather

    output.emit(forgather.train_tokenizer(bars=sys.stderr.isatty(), **given(ctx, TrainTokenizerOptions)))
