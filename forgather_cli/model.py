"""`forgather model`: construct, test, train, verify, show, estimate, compare."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from forgather_core.errors import ForgatherError, UnknownDefinitionError
from forgather_core.options.parallel import parallel_sizes
from forgather_core.options.scope import refuse_other_commands
from forgather_core.options.shared import OutputOptions
from forgather_core.options.spec import specs_of
from forgather_core.parallel.launched import is_launched

from .bridge.dynamic import (
    DynamicCommand,
    DynamicGroup,
    EstimateCommand,
    ShowCommand,
    TestCommand,
    TrainCommand,
    VerifyCommand,
)
from .bridge.owners import refuse_in_listing
from .bridge.session import CHOOSE, Session
from .completion import templates
from .output import MakeView, Output

CONTEXT_SETTINGS = {"help_option_names": ["-h", "--help"]}
app = typer.Typer(
    cls=DynamicGroup,
    no_args_is_help=True,
    rich_markup_mode=None,
    context_settings=CONTEXT_SETTINGS,
    help="Construct, test, train, verify, show, estimate or compare models.",
)


@app.command(cls=DynamicCommand, context_settings=CONTEXT_SETTINGS)
def construct(ctx: typer.Context) -> None:
    """Construct a model: write its directory if it does not exist, build it, and load or save weights on request."""
    from .views.construct import construction

    command = ModelCommand(ctx, construction)
    import forgather

    from . import progress

    with command.output.partial() as keep:
        with progress.construction() as bars:
            made = forgather.construct(command.model, progress=replace(bars, partial=keep), **command.options)
        command.output.emit(made)


@app.command(cls=TestCommand, context_settings=CONTEXT_SETTINGS)
def test(ctx: typer.Context) -> None:
    """Test model forward and backward: a few training steps on random tokens or on real data."""
    from .views.training_check import training_check

    command = ModelCommand(ctx, training_check)
    import forgather

    from . import progress

    steps: int = command.options.get("steps", 1)
    with command.output.partial() as keep, progress.construction() as bars, progress.steps(steps) as on_step:
        progress_of_test = replace(bars, step=on_step, partial=keep)
        result = forgather.test(command.model, progress=progress_of_test, **command.options)
    command.output.emit(result)


@app.command(cls=TrainCommand, context_settings=CONTEXT_SETTINGS)
def train(ctx: typer.Context) -> None:
    """Train the model on text with transformers' Trainer, and save it in its directory."""
    from .views.train import training_run

    command = ModelCommand(ctx, training_run)
    import forgather

    from . import progress

    with progress.construction() as bars, progress.training() as run:
        callbacks = replace(bars, begin=run.begin, record=run.record, evaluation=run.evaluation)
        result = forgather.train(command.model, progress=callbacks, **command.options)
    if result.process == 0:
        command.output.emit(result)


@app.command(cls=VerifyCommand, context_settings=CONTEXT_SETTINGS)
def verify(ctx: typer.Context) -> None:
    """Verify that the model is a correct causal language model; exit code 1 if a check fails."""
    from .views import verify as views

    if Session.of(ctx).given.get("list"):
        _list_checks(ctx)
        return
    command = ModelCommand(ctx, views.verification)
    import forgather

    from . import progress

    with command.output.partial() as keep, progress.spinner() as item:
        callbacks = forgather.Progress(item=item, note=progress.note, partial=keep)
        result = forgather.verify(command.model, progress=callbacks, **command.options)
    command.output.emit(result)
    raise typer.Exit(1 if result.failed else 0)


@app.command(cls=ShowCommand, context_settings=CONTEXT_SETTINGS)
def show(ctx: typer.Context) -> None:
    """Show the resolved options and the origin of each value, without building the model."""
    from .views.show import resolved_options

    command = ModelCommand(ctx, resolved_options)
    import forgather

    command.output.emit(forgather.show(command.model, **command.options))


@app.command(cls=EstimateCommand, context_settings=CONTEXT_SETTINGS)
def estimate(ctx: typer.Context) -> None:
    """Estimate parameters, memory and compute, and the devices that the model fits on, without building it."""
    from .views import estimate as views

    command = ModelCommand(ctx, views.estimate)
    import forgather

    from . import progress

    with command.output.partial() as keep, progress.spinner() as item:
        result = forgather.estimate(
            command.model, progress=forgather.Progress(item=item, partial=keep), **command.options
        )
    command.output.emit(result)


@app.command(cls=EstimateCommand, context_settings=CONTEXT_SETTINGS)
def compare(
    ctx: typer.Context,
    models: Annotated[
        list[str],
        typer.Argument(
            metavar="MODEL", help="Definitions, presets or configurations, as for -t", autocompletion=templates
        ),
    ],
) -> None:
    """Compare models: options that differ, parameters, memory, compute. The model of -t comes first."""
    from .views import estimate as views

    configuration = Session.of(ctx).configuration
    first = [configuration] if configuration is not None else []
    if len(first) + len(models) < 2:
        raise typer.BadParameter("compare requires two models: add another one, or use -t", ctx=ctx)
    command = ModelCommand(ctx, views.comparison, needs_model=False)
    import forgather

    from . import progress

    try:
        with command.output.partial() as keep, progress.spinner() as item:
            callbacks = forgather.Progress(item=item, partial=keep)
            result = forgather.compare(*first, *models, progress=callbacks, **command.options)
    except UnknownDefinitionError as error:
        raise error.at(option="MODEL") from None
    command.output.emit(result)


def _list_checks(ctx: typer.Context) -> None:
    """List the checks."""
    from .views.verify import checks

    refuse_in_listing(Session.of(ctx))
    command = ModelCommand(ctx, checks, needs_model=False)
    for name in ("list",) if command.model is not None else ("list", "project"):
        del command.options[name]
    import forgather

    from . import progress

    found = forgather.list_checks(command.model, progress=forgather.Progress(note=progress.note), **command.options)
    command.output.emit(found)


class ModelCommand:
    """The model, the options and the output of a command.

    Args:
        ctx: The context of the command.
        make_view: Function that returns the view of a report.
        needs_model: Whether -t is required.

    Raises:
        ForgatherError: -t is missing, or the output cannot be written.

    Attributes:
        model: The configuration of -t.
        options: The project, and the options given on the command line.
        output: The output.
    """

    def __init__(self, ctx: typer.Context, make_view: MakeView, *, needs_model: bool = True) -> None:
        session = Session.of(ctx)
        if session.configuration is None and needs_model:
            raise ForgatherError("is missing", option="-t", hint=CHOOSE)
        self.model: Any = session.configuration
        of_output = {spec.name for spec in specs_of(OutputOptions)}
        given = {name: value for name, value in session.given.items() if name not in of_output}
        count = given.pop("nproc_per_node", None)
        self.options = {"project": Path(ctx.find_root().params.get("project") or "."), **given}
        command = str(ctx.command.name)
        parallel = given.get("parallel") or session.preset_values().get("parallel") or "ddp"
        if command in ("construct", "test") and (count is not None or is_launched()):
            self.options["parallel"] = parallel
        if count is not None:
            from .workers import start_processes

            refuse_other_commands(command, session.given_specs())
            if command == "verify":  # it starts the processes of one check
                self.options["parallel"] = str(parallel_sizes(parallel, count))
            else:
                start_processes(command, self.model, self.options, count)
        self.output = Output(make_view, {name: value for name, value in session.given.items() if name in of_output})
