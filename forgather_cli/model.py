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
from forgather_core.options.scope import ESTIMATING, refuse_other_commands, refuse_without_effect
from forgather_core.options.shared import EstimateOptions, RunOptions, ShowOptions, TestOptions, VerifyOptions
from forgather_core.options.spec import specs_of

from .completion import templates
from .dynamic import (
    CHOOSE,
    COMMAND_OPTIONS,
    DynamicCommand,
    DynamicGroup,
    EstimateCommand,
    Session,
    ShowCommand,
    TrialCommand,
    VerifyCommand,
)
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
    help="Construct, test, verify, show, estimate or compare models of definitions.",
)


@app.command(cls=DynamicCommand, context_settings=HELP)
def construct(ctx: typer.Context) -> None:
    """Construct a model: write its directory unless it exists, build it, load and save weights if asked."""
    asked = ModelCommand(ctx)
    from forgather_core.report.settings_report import construction_report

    from . import drawings

    made = asked.construct()
    with asked.partial(drawings.construction) as keep:
        report = construction_report(made, keep)
    asked.answer(report, drawings.construction(report))


@app.command(cls=TrialCommand, context_settings=HELP)
def test(ctx: typer.Context) -> None:
    """Test model forward and backward: a few training steps on random tokens or on real data."""
    asked = ModelCommand(ctx)
    from forgather_core.training_check import check_test_options, run_training_check, step_guard

    from . import progress, trial_drawings

    check_test_options(asked.settings, asked.trial)
    made = asked.construct(None if asked.run.force else step_guard(asked.settings, asked.trial))
    with asked.partial(trial_drawings.trial) as keep, progress.steps(asked.trial.steps) as on_step:
        report = run_training_check(made, asked.trial, on_step=on_step, on_partial=keep)
    asked.answer(report, trial_drawings.trial(report))


@app.command(cls=VerifyCommand, context_settings=HELP)
def verify(ctx: typer.Context) -> None:
    """Verify that the model keeps the promises of a causal language model; exit code 1 where it does not."""
    asked = ModelCommand(ctx)
    from forgather_core.checks import asked_for, verify_settings

    from . import progress, verify_drawings

    chosen = asked_for(asked.verify, progress.note)
    if asked.verify.list:
        listed = {"checks": [{"name": check.name, "promise": check.promise} for check in chosen]}
        asked.answer(listed, verify_drawings.checks(listed["checks"]))
        return
    with asked.partial(verify_drawings.verification) as keep, progress.spinner() as tell:
        report = verify_settings(
            asked.settings,
            chosen,
            project=asked.project,
            refresh=asked.run.refresh_model,
            keep=asked.run.keep,
            full=asked.verify.full,
            force=asked.run.force,
            on_check=tell,
            on_partial=keep,
        )
    asked.answer(report, verify_drawings.verification(report))
    raise typer.Exit(1 if report["failed"] else 0)


@app.command(cls=ShowCommand, context_settings=HELP)
def show(ctx: typer.Context) -> None:
    """Show the settled options, each with where its value came from. Builds nothing."""
    asked = ModelCommand(ctx)
    from forgather_core.report.settings_report import settings_report

    from . import drawings

    report = settings_report(asked.settings, asked.project)
    if asked.show.init:
        from forgather_core.model.initial_table import initial_table

        report["initial_weights"] = initial_table(asked.settings)
    asked.answer(report, drawings.settings(report))


@app.command(cls=EstimateCommand, context_settings=HELP)
def estimate(ctx: typer.Context) -> None:
    """Estimate parameters, memory and compute, and what the model fits on. Builds nothing."""
    asked = ModelCommand(ctx)
    from forgather_core.estimate import estimate as run

    from . import estimate_drawings, progress

    with asked.partial(estimate_drawings.estimate) as keep, progress.spinner() as tell:
        report = run(asked.settings, asked.estimate, tell, keep)
    asked.answer(report, estimate_drawings.estimate(report))


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
    """Compare models: options that differ, parameters, memory, compute. With -t, that model is the first."""
    first = [ModelCommand(ctx)] if Session.of(ctx).configuration is not None else []
    asked = [*first, *(ModelCommand(ctx, name) for name in models)]
    if len(asked) < 2:
        raise typer.BadParameter("compare needs two models: name another, or one with -t", ctx=ctx)
    from forgather_core.estimate import compare as run

    from . import estimate_drawings, progress

    with asked[0].partial(estimate_drawings.comparison) as keep, progress.spinner() as tell:
        report = run([one.settings for one in asked], asked[0].estimate, tell, keep)
    asked[0].answer(report, estimate_drawings.comparison(report))


class ModelCommand:
    """What the command line asked for: settled, and checked where it costs nothing.

    Args:
        ctx: Of the command.
        template: The model; None is that of -t. Another takes the shared options that were given, and not those of a
            definition: they are of the model of -t.
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
        self.trial: TestOptions = _take(TestOptions, given, command == "test")
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
        parts = (self.run, self.trial, self.show, self.verify, self.settings.directory, self.settings.build)
        values = {name: value for part in (self.settings.options, *parts) for name, value in vars(part).items()}
        refuse_without_effect(command, typed, values)

    @contextmanager
    def partial(self, draw: Callable[[Mapping[str, Any]], Any]) -> Iterator[Callable[[Mapping[str, Any]], None]]:
        """Answer with the report that is kept so far if the block ends early; what ended it passes on."""
        kept: list[Mapping[str, Any]] = []
        try:
            yield kept.append
        except BaseException:
            for report in kept:
                self.answer(report, draw(report))
            raise

    def construct(self, on_model: OnModel | None = None) -> ConstructedModel:
        """Construct the model, and show how that goes; `on_model` may refuse it before anything is allocated."""
        from forgather_core.commands.construct import construct as run

        from . import progress

        with progress.watch() as watch:
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
    """Make an options object of what was given.

    Args:
        options: Its class.
        given: Values by option.
        chosen: Whether the command uses it: commands may share an option, and differ in its choices.
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
                raise ForgatherError(f"--edit: {variable} is no command: {error}") from None
            if shutil.which(command[0]) is None:
                raise ForgatherError(f"--edit: {variable} names '{command[0]}', which is not a program here")
            return command
    raise ForgatherError("--edit: set VISUAL or EDITOR to your editor, for example: export EDITOR=nano")
