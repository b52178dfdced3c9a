"""`forgather verify`, `forgather sample` and `forgather eval`: commands on a model directory."""

from __future__ import annotations

from typing import Annotated

import typer

from forgather_core.filesystem.paths import expanded
from forgather_core.options.plain_options import EvaluateOptions, SampleOptions, VerifyDirectoryOptions
from forgather_core.options.shared import OutputOptions

from .bridge.plain import PlainGroup, given, with_options
from .model import CONTEXT_SETTINGS
from .output import Output

app = typer.Typer(cls=PlainGroup, rich_markup_mode=None)

_WITH_WEIGHTS = "Model directory with weights: trained by Forgather, or any Hugging Face causal LM"


@app.command(cls=with_options(VerifyDirectoryOptions, OutputOptions), context_settings=CONTEXT_SETTINGS)
def verify(
    ctx: typer.Context,
    directory: Annotated[
        str,
        typer.Argument(
            metavar="DIR",
            help="Model directory, or its config.json: exported by Forgather, or any Hugging Face causal LM",
        ),
    ],
) -> None:
    """Verify that a model directory is a correct causal language model; exit code 1 if a check fails."""
    from .views.verify import verification

    output = Output(verification, given(ctx, OutputOptions))
    import forgather

    from . import progress

    with output.partial() as keep, progress.spinner() as item:
        callbacks = forgather.Progress(item=item, note=progress.note, partial=keep)
        result = forgather.verify(expanded(directory), progress=callbacks, **given(ctx, VerifyDirectoryOptions))
    output.emit(result)
    raise typer.Exit(1 if result.failed else 0)


@app.command(cls=with_options(SampleOptions, OutputOptions), context_settings=CONTEXT_SETTINGS)
def sample(
    ctx: typer.Context,
    directory: Annotated[str, typer.Argument(metavar="DIR", help=_WITH_WEIGHTS)],
    texts: Annotated[list[str] | None, typer.Argument(metavar="[TEXT]", help="Texts to continue")] = None,
) -> None:
    """Continue texts with a saved model."""
    from .views import train as views

    output = Output(views.samples, given(ctx, OutputOptions))
    import forgather

    output.emit(forgather.sample(expanded(directory), *(texts or ()), **given(ctx, SampleOptions)))


@app.command("eval", cls=with_options(EvaluateOptions, OutputOptions), context_settings=CONTEXT_SETTINGS)
def evaluate(ctx: typer.Context, directory: Annotated[str, typer.Argument(metavar="DIR", help=_WITH_WEIGHTS)]) -> None:
    """Compute the loss of a saved model on a dataset, per token and per byte."""
    from .views import train as views

    output = Output(views.evaluation, given(ctx, OutputOptions))
    import forgather

    output.emit(forgather.evaluate(expanded(directory), **given(ctx, EvaluateOptions)))
