"""The commands of `forgather model` as functions."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from forgather_core.definitions.registry import registry
from forgather_core.filesystem.paths import project_directory
from forgather_core.options.command_options import EstimateOptions, ShowOptions, TestOptions
from forgather_core.settings.resolved_model import ResolvedModel

from .calls import Call, Model, shared_options
from .listings import ModelList
from .model_results import Comparison, Construction, Estimate, ShownModel, TrainingCheck
from .progress import SILENT, Progress, partial_of
from .public import public

if TYPE_CHECKING:
    from forgather_core.commands.construct import ConstructedModel, OnModel


@public()
def list_models(project: str | Path | None = None) -> ModelList:
    """List the installed definitions with their presets, and the configurations of a project.

    Args:
        project: Directory whose YAML configurations are listed; None: the working directory.
    """
    from forgather_core.commands.listing import list_models as report

    return ModelList(report(registry(), Path() if project is None else project_directory(project, "project")))


@public()
def resolve(model: str | Path, *, project: str | Path | None = None, **options: Any) -> ResolvedModel:
    """Resolve the options of a model, without importing torch or building anything.

    Args:
        model: A definition or preset (`llama`, `llama/4M`) or a YAML file.
        project: Directory of YAML configurations and `output_models`, also of later calls with the resolved model;
            None: the working directory for configurations.
        **options: Options of the definition, the model directory and the build.

    Raises:
        TypeError: There is no option of that name.
        ForgatherError: There is no such model, or an option is invalid.

    Example:
        >>> resolve("llama/4M", hidden_size=128).config["hidden_size"]
        128
    """
    return Call("resolve", model, project, options).resolved


@public()
def show(model: Model, *, project: str | Path | None = None, **options: Any) -> ShownModel:
    """Resolve the options of a model and report each value with its origin.

    Args:
        model: A definition or preset, a YAML file, or a resolved model.
        project: See `resolve`.
        **options: The options of `forgather model show`; `init=True` adds the initialization of each weight.

    Raises:
        TypeError: There is no option of that name.
        ForgatherError: There is no such model, or an option is invalid.
    """
    call = Call("show", model, project, options)
    report = call.resolved.to_dict(call.project)
    if call.resolved.tokenizer is not None:  # one on the Hub may have the template
        call.resolved.chat_template_text()
    if call.take(ShowOptions).init:
        from forgather_core.model.initial_table import initial_table

        report["initial_weights"] = initial_table(call.resolved)
    return ShownModel(report, call.resolved)


@public()
def construct(
    model: Model, *, project: str | Path | None = None, progress: Progress = SILENT, **options: Any
) -> Construction:
    """Write the model directory if it does not exist, build the model, and load or save weights on request.

    Args:
        model: A definition or preset, a YAML file, or a resolved model.
        project: Directory of YAML configurations and `output_models`; None uses that of a resolved model, else the
            working directory for configurations and a temporary directory for models.
        progress: Callbacks.
        **options: The options of `forgather model construct`, such as `device="cpu"`, `dtype="bfloat16"`,
            `load_from_checkpoint=...`, `refresh_model=True`, `output_dir=...`.

    Raises:
        TypeError: There is no option of that name.
        ForgatherError: An option is invalid, or the model directory, the checkpoint or the device cannot be used.

    Example:
        >>> construct("llama/4M", num_hidden_layers=1, device="cpu").model.config.num_hidden_layers
        1
    """
    return Construction(_construct(Call("construct", model, project, options), progress), progress)


@public()
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
        report = run_training_check(made, chosen, on_step=progress.step, on_partial=partial_of(progress, TrainingCheck))
    return TrainingCheck(report)


test.__test__ = False  # type: ignore[attr-defined] # pytest would collect it by its name


@public()
def estimate(
    model: Model, *, project: str | Path | None = None, progress: Progress = SILENT, **options: Any
) -> Estimate:
    """Estimate parameters, memory and compute, and the devices that a model fits on. Nothing is allocated or written.

    Args:
        model: A definition or preset, a YAML file, or a resolved model.
        project: Directory in which YAML configurations are looked up; None: the working directory.
        progress: Callbacks.
        **options: The options of `forgather model estimate`, such as `batch_size=8`, `precision="mixed"`.

    Raises:
        TypeError: There is no option of that name.
        ForgatherError: There is no such model, or an option or the `hardware` file is invalid.
    """
    call = Call("estimate", model, project, options)
    chosen = call.take(EstimateOptions)
    from forgather_core.estimate import estimate as run

    return Estimate(run(call.resolved, chosen, progress.item, partial_of(progress, Estimate)))


@public()
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
    return Comparison(run(resolved, calls[0].take(EstimateOptions), progress.item, partial_of(progress, Comparison)))


def _construct(call: Call, progress: Progress, on_model: OnModel | None = None) -> ConstructedModel:
    from forgather_core.commands.construct import ProgressCallbacks
    from forgather_core.commands.construct import construct as run
    from forgather_core.training.random_state import kept_random_state

    with kept_random_state():
        return run(
            call.resolved,
            project=call.model_project(),
            refresh=call.run.refresh_model,
            keep=call.run.keep,
            callbacks=ProgressCallbacks(progress.waiting, progress.verifying, progress.loading, progress.saving),
            force=call.run.force,
            on_model=on_model,
        )
