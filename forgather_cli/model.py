"""`forgather model`: construct, test, verify, show, estimate, compare."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from forgather_core.errors import ForgatherError
from forgather_core.filesystem.printable import printable
from forgather_core.options.command_options import EstimateOptions, ShowOptions, TestOptions, VerifyOptions
from forgather_core.options.scope import ESTIMATING, refuse_other_commands, refuse_without_effect
from forgather_core.options.shared import RunOptions
from forgather_core.options.spec import specs_of

from .completion import templates
from .dynamic import (
    DynamicCommand,
    DynamicGroup,
    EstimateCommand,
    ShowCommand,
    TestCommand,
    VerifyCommand,
)
from .session import CHOOSE, COMMAND_OPTIONS, Session
from .streams import say

if TYPE_CHECKING:
    from forgather_core.commands.construct import ConstructedModel, OnModel
    from forgather_core.settings.resolve import Settings

HELP = {"help_option_names": ["-h", "--help"]}
app = typer.Typer(
    cls=DynamicGroup,
    no_args_is_help=True,
    rich_markup_mode=None,
    context_settings=HELP,
    help="Construct, test, verify, show, estimate or compare models.",
)


@app.command(cls=DynamicCommand, context_settings=HELP)
def construct(ctx: typer.Context) -> None:
    """Construct a model: write its directory if it does not exist, build it, and load or save weights on request."""
    command = ModelCommand(ctx)
    from forgather_core.report.settings_report import construction_report

    from .views.construct import construction

    made = command.construct()
    with command.partial(construction) as keep:
        report = construction_report(made, keep)
    command.answer(report, construction(report))


@app.command(cls=TestCommand, context_settings=HELP)
def test(ctx: typer.Context) -> None:
    """Test model forward and backward: a few training steps on random tokens or on real data."""
    command = ModelCommand(ctx)
    from forgather_core.training_check import check_test_options, run_training_check, step_guard

    from . import progress
    from .views.training_check import training_check

    check_test_options(command.settings, command.test)
    made = command.construct(None if command.run.force else step_guard(command.settings, command.test))
    with command.partial(training_check) as keep, progress.steps(command.test.steps) as on_step:
        report = run_training_check(made, command.test, on_step=on_step, on_partial=keep)
    command.answer(report, training_check(report))


@app.command(cls=VerifyCommand, context_settings=HELP)
def verify(ctx: typer.Context) -> None:
    """Verify that the model is a correct causal language model; exit code 1 if a check fails."""
    command = ModelCommand(ctx)
    from forgather_core.checks import asked_for, verify_settings

    from . import progress
    from .views import verify as views

    chosen = asked_for(command.verify, progress.note)
    if command.verify.list:
        listing = {"checks": [{"name": check.name, "promise": check.promise} for check in chosen]}
        command.answer(listing, views.checks(listing["checks"]))
        return
    with command.partial(views.verification) as keep, progress.spinner() as on_progress:
        report = verify_settings(
            command.settings,
            chosen,
            project=command.project,
            refresh=command.run.refresh_model,
            keep=command.run.keep,
            full=command.verify.full,
            force=command.run.force,
            on_check=on_progress,
            on_partial=keep,
        )
    command.answer(report, views.verification(report))
    raise typer.Exit(1 if report["failed"] else 0)


@app.command(cls=ShowCommand, context_settings=HELP)
def show(ctx: typer.Context) -> None:
    """Show the resolved options and the source of each value, without building the model."""
    command = ModelCommand(ctx)
    from forgather_core.report.settings_report import settings_report

    from .views.show import settings

    report = settings_report(command.settings, command.project)
    if command.show.init:
        from forgather_core.model.initial_table import initial_table

        report["initial_weights"] = initial_table(command.settings)
    command.answer(report, settings(report))


@app.command(cls=EstimateCommand, context_settings=HELP)
def estimate(ctx: typer.Context) -> None:
    """Estimate parameters, memory and compute, and the devices that the model fits on, without building it."""
    command = ModelCommand(ctx)
    from forgather_core.estimate import estimate as run

    from . import progress
    from .views import estimate as views

    with command.partial(views.estimate) as keep, progress.spinner() as on_progress:
        report = run(command.settings, command.estimate, on_progress, keep)
    command.answer(report, views.estimate(report))


@app.command(cls=EstimateCommand, context_settings=HELP)
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
    first = [ModelCommand(ctx)] if Session.of(ctx).configuration is not None else []
    commands = [*first, *(ModelCommand(ctx, name) for name in models)]
    if len(commands) < 2:
        raise typer.BadParameter("compare requires two models: add another one, or use -t", ctx=ctx)
    from forgather_core.estimate import compare as run

    from . import progress
    from .views import estimate as views

    with commands[0].partial(views.comparison) as keep, progress.spinner() as on_progress:
        report = run([one.settings for one in commands], commands[0].estimate, on_progress, keep)
    commands[0].answer(report, views.comparison(report))


class ModelCommand:
    """One model of a command: its resolved settings and the options of the command.

    Args:
        ctx: The context of the command.
        template: The model; None uses that of -t. Any other model takes only the shared options of the command line:
            options of a definition belong to the model of -t.
    """

    def __init__(self, ctx: typer.Context, template: str | None = None) -> None:
        session = Session.of(ctx)
        self.project = Path(ctx.find_root().params.get("project") or ".")
        configuration, given = session.configuration, dict(session.given)
        if template is not None:
            from forgather_core.definitions.registry import registry
            from forgather_core.settings.layers import find_configuration

            configuration = find_configuration(template, registry(), self.project)
            given = {name: value for name, value in given.items() if name in session.shared}
        if configuration is None:
            raise typer.BadParameter(CHOOSE, ctx=ctx.find_root())
        command, typed = str(ctx.info_name), session.typed()
        refuse_other_commands(command, typed)
        self.run: RunOptions = _take(RunOptions, given)
        self.test: TestOptions = _take(TestOptions, given, command == "test")
        self.estimate: EstimateOptions = _take(EstimateOptions, given, command in ESTIMATING)
        self.show: ShowOptions = _take(ShowOptions, given)
        self.verify: VerifyOptions = _take(VerifyOptions, given)
        for group in (RunOptions, *COMMAND_OPTIONS.values()):
            for spec in specs_of(group):
                given.pop(spec.name, None)
        if self.run.output_file is not None:
            from .render import check_output

            check_output(self.run.output_file)
        self._editor = _editor() if self.run.edit else []
        from forgather_core.settings.resolve import resolve

        self.settings: Settings = resolve(configuration, given)
        parts = (self.run, self.test, self.show, self.verify, self.settings.directory, self.settings.build)
        values = {name: value for part in (self.settings.options, *parts) for name, value in vars(part).items()}
        refuse_without_effect(command, typed, values)

    @contextmanager
    def partial(self, draw: Callable[[Mapping[str, Any]], Any]) -> Iterator[Callable[[Mapping[str, Any]], None]]:
        """Output the last partial report if the block ends with an exception, and raise it again."""
        kept: list[Mapping[str, Any]] = []
        try:
            yield kept.append
        except BaseException:
            for report in kept:
                self.answer(report, draw(report))
            raise

    def construct(self, on_model: OnModel | None = None) -> ConstructedModel:
        """Construct the model with progress bars; `on_model` may refuse it before memory is allocated."""
        from forgather_core.commands.construct import construct as run

        from . import progress

        with progress.construction() as watch:
            return run(
                self.settings,
                project=self.project,
                refresh=self.run.refresh_model,
                keep=self.run.keep,
                watch=watch,
                force=self.run.force,
                on_model=on_model,
            )

    def answer(self, report: Mapping[str, Any], drawing: Any) -> None:
        """Print the report, write it to a file, or open it in the editor."""
        from .render import show as print_report
        from .render import write

        title = self.settings.model_name
        if self.run.output_file is None and not self.run.edit:
            print_report(report, drawing, as_json=self.run.json)
            return
        path = self.run.output_file or Path(tempfile.mkdtemp(prefix="forgather-")) / f"{title}.txt"
        write(report, drawing, path, title, as_json=self.run.json)
        if self.run.edit:
            subprocess.run([*self._editor, str(path)], check=False)
        else:
            say(f"wrote {printable(str(path))}")


def _take(options: type, given: dict[str, Any], chosen: bool = True) -> Any:
    """Create an options object from the given values.

    Args:
        options: The options class.
        given: Values by option name.
        chosen: Whether the command uses this class. Commands may share an option with different choices.
    """
    if not chosen:
        return options()
    values = {}
    for spec in specs_of(options):
        if spec.name in given:
            try:
                values[spec.name] = spec.convert(given[spec.name]) if isinstance(spec.kind, tuple) else given[spec.name]
            except ValueError as error:
                raise typer.BadParameter(f"{spec.flag}: {error}") from None
    return options(**values)


def _editor() -> list[str]:
    for variable in ("VISUAL", "EDITOR"):
        if os.environ.get(variable, "").strip():
            try:
                command = shlex.split(os.environ[variable])
            except ValueError as error:
                raise ForgatherError(f"--edit: {variable} is not a valid command: {error}") from None
            if shutil.which(command[0]) is None:
                raise ForgatherError(
                    f"--edit: the program '{command[0]}' of {variable} does not exist: set another editor"
                )
            return command
    raise ForgatherError("--edit: set VISUAL or EDITOR to your editor, for example: export EDITOR=nano")
