"""The commands of `forgather model` as functions."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from forgather_core.definitions.registry import registry
from forgather_core.errors import ConfigurationError
from forgather_core.options.command_options import EstimateOptions, ShowOptions, TestOptions, VerifyOptions
from forgather_core.options.plain_options import VerifyDirectoryOptions
from forgather_core.settings.resolved_model import ResolvedModel

from .calls import Call, Model, shared_options, take
from .listings import CheckList, ModelList
from .model_results import Comparison, Construction, Estimate, ShownModel, TrainingCheck, Verification
from .progress import SILENT, Progress
from .results import Result

if TYPE_CHECKING:
    from forgather_core.commands.construct import ConstructedModel, OnModel


def list_models(project: str | Path | None = None) -> ModelList:
    """List the installed definitions with their presets, and the configurations of a project.

    Args:
        project: Directory whose YAML configurations are listed; None: the working directory.
    """
    from forgather_core.commands.listing import list_models as report

    return ModelList(report(registry(), Path(project or ".")))


def resolve(model: str | Path, *, project: str | Path | None = None, **options: Any) -> ResolvedModel:
    """Resolve the options of a model, without importing torch or building anything.

    Args:
        model: A definition or preset (`llama`, `llama/4M`) or a YAML file.
        project: Directory in which YAML configurations are looked up; None: the working directory.
        **options: Options of the definition, the model directory and the build.

    Raises:
        TypeError: There is no option of that name.
        ForgatherError: There is no such model, or an option is invalid.

    Example:
        >>> resolve("llama/4M", hidden_size=128).config["hidden_size"]
        128
    """
    return Call("resolve", model, project, options).resolved


def show(model: Model, *, project: str | Path | None = None, **options: Any) -> ShownModel:
    """Resolve the options of a model and report each value with its source.

    Args:
        model: A definition or preset, a YAML file, or a resolved model.
        project: See `resolve`.
        **options: The options of `forgather model show`; `init=True` adds the initialization of each weight.

    Raises:
        TypeError: There is no option of that name.
        ForgatherError: There is no such model, or an option is invalid.
    """
    call = Call("show", model, project, options)
    report = call.resolved.to_dict(Path() if project is None else call.project)
    if call.take(ShowOptions).init:
        from forgather_core.model.initial_table import initial_table

        report["initial_weights"] = initial_table(call.resolved)
    return ShownModel(report, call.resolved)


def construct(
    model: Model, *, project: str | Path | None = None, progress: Progress = SILENT, **options: Any
) -> Construction:
    """Write the model directory if it does not exist, build the model, and load or save weights on request.

    Args:
        model: A definition or preset, a YAML file, or a resolved model.
        project: Directory of YAML configurations and `output_models`; None uses the working directory for
            configurations and a temporary directory for models.
        progress: Callbacks.
        **options: The options of `forgather model construct`, such as `device="cpu"`, `dtype="bfloat16"`,
            `load_from_checkpoint=...`, `refresh_model=True`, `output_dir=...`.

    Raises:
        TypeError: There is no option of that name.
        ForgatherError: An option is invalid, or the directory, the checkpoint or the device does not allow it.

    Example:
        >>> construct("llama/4M", num_hidden_layers=1, device="cpu").model.config.num_hidden_layers
        1
    """
    return Construction(_construct(Call("construct", model, project, options), progress), progress)


def test(
    model: Model, *, project: str | Path | None = None, progress: Progress = SILENT, **options: Any
) -> TrainingCheck:
    """Train a model for a few steps on random tokens or on a dataset; on meta, only estimate a step.

    Args:
        model: A definition or preset, a YAML file, or a resolved model.
        project: See `construct`.
        progress: Callbacks.
        **options: The options of `forgather model test`, such as `steps=10`, `device="cpu"`, `batch_size=4`.

    Raises:
        TypeError: There is no option of that name.
        TrainingCheckError: A loss or a gradient is not finite, or the model cannot be compiled.
        ForgatherError: See `construct`; or the dataset cannot be read.
    """
    call = Call("test", model, project, options)
    chosen = call.take(TestOptions)
    from forgather_core.training_check import check_test_options, run_training_check, step_guard

    check_test_options(call.resolved, chosen)
    from forgather_core.training.random_state import kept_random_state

    with kept_random_state():
        made = _construct(call, progress, None if call.run.force else step_guard(call.resolved, chosen))
        report = run_training_check(made, chosen, on_step=progress.step, on_partial=_partial(progress, TrainingCheck))
    return TrainingCheck(report)


test.__test__ = False  # type: ignore[attr-defined] # not a test case, in spite of its name


def verify(
    model: Model, *, project: str | Path | None = None, progress: Progress = SILENT, **options: Any
) -> Verification:
    """Verify that a model behaves as a causal language model must.

    Args:
        model: The path of a model directory (as a `Path`), exported by Forgather or any causal language model of
            Hugging Face; or a definition or preset, a YAML file, or a resolved model.
        project: See `construct`.
        progress: Callbacks.
        **options: The options of `forgather model verify`, such as `checks="causality,padding"`, `quick=True`; for
            the directory of a model: `checks`, `quick`, `full` and `force`.

    Raises:
        TypeError: There is no option of that name.
        ForgatherError: There is no such model or check, or a file of the directory cannot be read.
    """
    if isinstance(model, Path) and model.suffix not in {".yaml", ".yml"}:
        if project is not None:
            raise TypeError("verify() of a directory has no project: drop it")
        return _verify_directory(model, progress, options)
    if options.get("list"):
        raise TypeError("verify() does not support list: call list_checks()")
    call = Call("verify", model, project, options)
    chosen = call.take(VerifyOptions)
    from forgather_core.checks import asked_for, verify_settings
    from forgather_core.training.random_state import kept_random_state

    with kept_random_state():
        report = verify_settings(
            call.resolved,
            asked_for(chosen, progress.note or _ignore),
            project=call.project,
            refresh=call.run.refresh_model,
            keep=call.run.keep,
            full=chosen.full,
            force=call.run.force,
            on_check=progress.item,
            on_partial=_partial(progress, Verification),
        )
    return Verification(report)


def list_checks(
    model: Model | None = None, *, project: str | Path | None = None, progress: Progress = SILENT, **options: Any
) -> CheckList:
    """List the checks of `verify`, those of plugins included.

    Args:
        model: A model whose options are validated too; None validates no options.
        project: See `construct`.
        progress: Callbacks; `note` gets a sentence for each plugin whose checks cannot be loaded.
        **options: `checks` and `quick` choose among them.

    Raises:
        CheckError: There is no check of that name.
    """
    listing = {"list": True, **options}
    chosen = (
        take(VerifyOptions, "list_checks", listing)
        if model is None
        else Call("verify", model, project, listing).take(VerifyOptions)
    )
    from forgather_core.checks import asked_for

    found = asked_for(chosen, progress.note or _ignore)
    return CheckList({"checks": [{"name": check.name, "promise": check.promise} for check in found]})


def estimate(
    model: Model, *, project: str | Path | None = None, progress: Progress = SILENT, **options: Any
) -> Estimate:
    """Estimate parameters, memory, compute and fitting devices of a model. Nothing is allocated or written.

    Args:
        model: A definition or preset, a YAML file, or a resolved model.
        project: Directory in which YAML configurations are looked up; None: the working directory.
        progress: Callbacks.
        **options: The options of `forgather model estimate`, such as `batch_size=8`, `precision="mixed"`.

    Raises:
        TypeError: There is no option of that name.
        ForgatherError: There is no such model, or an option or the file of devices is invalid.
    """
    call = Call("estimate", model, project, options)
    chosen = call.take(EstimateOptions)
    from forgather_core.estimate import estimate as run

    return Estimate(run(call.resolved, chosen, progress.item, _partial(progress, Estimate)))


def compare(
    *models: Model, project: str | Path | None = None, progress: Progress = SILENT, **options: Any
) -> Comparison:
    """Compare models: options that differ, parameters, memory, compute.

    Args:
        *models: Two or more definitions or presets, YAML files, or resolved models.
        project: Directory in which YAML configurations are looked up; None: the working directory.
        progress: Callbacks.
        **options: The options of `forgather model compare`. Options of a definition apply to the first model; resolve
            the others to set their options.

    Raises:
        TypeError: There is no option of that name, or fewer than two models are given.
        ForgatherError: There is no such model, or an option is invalid.
    """
    if len(models) < 2:
        raise TypeError(f"compare() requires two models, got {len(models)}")
    first, *others = models
    calls = [Call("compare", first, project, options)]
    calls += [Call("compare", model, project, shared_options(options)) for model in others]
    from forgather_core.estimate import compare as run

    resolved = [call.resolved for call in calls]
    return Comparison(run(resolved, calls[0].take(EstimateOptions), progress.item, _partial(progress, Comparison)))


def _construct(call: Call, progress: Progress, on_model: OnModel | None = None) -> ConstructedModel:
    from forgather_core.commands.construct import ProgressCallbacks
    from forgather_core.commands.construct import construct as run
    from forgather_core.training.random_state import kept_random_state

    with kept_random_state():
        return run(
            call.resolved,
            project=call.project,
            refresh=call.run.refresh_model,
            keep=call.run.keep,
            callbacks=ProgressCallbacks(progress.waiting, progress.verifying, progress.loading, progress.saving),
            force=call.run.force,
            on_model=on_model,
        )


def _verify_directory(directory: Path, progress: Progress, options: Mapping[str, Any]) -> Verification:
    chosen = take(VerifyDirectoryOptions, "verify", options)
    if chosen.force and not chosen.full:
        raise ConfigurationError("requires --full", option="--force")
    from forgather_core.checks import asked_for
    from forgather_core.checks import verify as run
    from forgather_core.training.random_state import kept_random_state

    with kept_random_state():
        report = run(
            directory,
            asked_for(chosen, progress.note or _ignore),
            full=chosen.full,
            force=chosen.force,
            on_check=progress.item,
            on_partial=_partial(progress, Verification),
        )
    return Verification(report)


def _partial(progress: Progress, kind: type[Result]) -> Callable[[dict[str, Any]], None] | None:
    """Return a function that passes a partial report on as a result."""
    on_partial = progress.partial
    return None if on_partial is None else lambda report: on_partial(kind(report))


def _ignore(_: str) -> None:
    """Drop a note that no callback receives."""
