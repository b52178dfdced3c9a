"""`construct`: prepare a model directory, build the model, load and save weights, and commit them in one step."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ..errors import BuildError
from ..export.directory import Draft, ModelDirectory
from ..options.shared import BuildOptions
from ..runtime.short_repr import Brief
from ..settings.resolved_model import ResolvedModel
from .parallel import check_parallel
from .shared_draft import shared_draft

if TYPE_CHECKING:
    from torch import nn

    from ..checkpoint import LoadReport, SaveReport
    from ..parallel.mesh import Mesh
    from ..parallel.processes import Processes


@dataclass(frozen=True, repr=False)
class ConstructedModel(Brief):
    """The result of `construct`.

    Args:
        resolved: The resolved model.
        directory: The model directory.
        model: The model.
        loaded: The report on loaded weights, or None.
        saved: The report on saved weights, or None.
        mesh: The device mesh over which the model is distributed, or None.
    """

    resolved: ResolvedModel
    directory: ModelDirectory
    model: nn.Module
    loaded: LoadReport | None
    saved: SaveReport | None
    mesh: Mesh | None = None


@dataclass(frozen=True)
class ProgressCallbacks:
    """Callbacks that report the progress of `construct`.

    Args:
        wait: Called once if another process holds the lock of the directory.
        verifying, loading, saving: Called with the number of bytes done and the total.
    """

    wait: Callable[[], None] | None = None
    verifying: Callable[[int, int], None] | None = None
    loading: Callable[[int, int], None] | None = None
    saving: Callable[[int, int], None] | None = None


# Arguments: the configuration, a function that builds the model on meta, the directory, and the mesh.
OnModel = Callable[[Any, Callable[[], "nn.Module"], Path, "Mesh | None"], None]


def construct(
    resolved: ResolvedModel,
    *,
    project: Path | None = None,
    refresh: bool = False,
    keep: bool = False,
    callbacks: ProgressCallbacks = ProgressCallbacks(),
    force: bool = False,
    on_model: OnModel | None = None,
    mesh: Mesh | Literal["connect"] | None = "connect",
) -> ConstructedModel:
    """Prepare the directory, build the model, and load and save weights according to the options.

    A new or rebuilt directory is committed at the end, together with saved weights. A failure before that leaves the
    previous state unchanged.

    Args:
        resolved: The resolved model.
        project: The project directory, which contains `output_models`; None uses that of the model.
        refresh: Rebuild an existing directory.
        keep: Use an existing directory unchanged.
        callbacks: Progress callbacks.
        force: Build the model even if memory seems insufficient.
        on_model: Called before memory is allocated; it may raise to reject the model.
        mesh: The device mesh over which the model is distributed; None for a whole model in each process. By default,
            the processes are connected to one if the option `parallel` is set.

    Raises:
        ForgatherError: An error that the user can correct. Conditions that do not depend on the directory are checked
            before it is modified.
    """
    options = resolved.build
    _refuse_contradictions(resolved)
    from ..checkpoint import Checkpoint, load_into, parse_size
    from ..model.build import build, check_build
    from ..parallel.mesh import Mesh
    from ..parallel.processes import agreed

    check_build(options, resolved.options)
    limit = parse_size(options.max_shard_size)
    if mesh == "connect":
        mesh = Mesh.connect(options.parallel, options.device) if options.parallel is not None else None
        if mesh is not None:
            check_parallel(resolved, mesh.processes.size)
    processes = mesh.processes if mesh is not None else None
    with ExitStack() as stack:
        checkpoint, verified = None, None
        if options.load_from_checkpoint is not None:
            # Opened first: the checkpoint may be in the directory that is rebuilt.
            checkpoint = stack.enter_context(Checkpoint.open(options.load_from_checkpoint))
            if options.verify_checksums:
                verify = partial(checkpoint.verify, callbacks.verifying)
                verified = verify() if processes is None else processes.first(verify)
        target = resolved.target(project)
        how: dict[str, Any] = {"refresh": refresh, "keep": keep, "on_wait": callbacks.wait}
        draft = stack.enter_context(shared_draft(processes, resolved, target, **how))
        before = partial(_before_build, options, draft.path, force, on_model, mesh)
        guard = None if options.device == "meta" else before
        model, loaded = build(draft.path, options, before=guard, mesh=mesh), None
        with agreed(processes):  # also, all have read the draft, which the commit renames
            if checkpoint is not None:
                loaded = load_into(
                    model,
                    checkpoint,
                    ignore_mismatched_sizes=options.ignore_mismatched_sizes,
                    verified=verified,
                    on_progress=callbacks.loading,
                )
                _refuse_unset(options, loaded)
        saved = _commit(draft, model, limit, options, callbacks, processes)
    model.config._name_or_path = str(draft.target)  # type: ignore[union-attr]
    return ConstructedModel(draft.resolved, draft.result, model, loaded, saved, mesh)


def _before_build(
    options: BuildOptions,
    path: Path,
    force: bool,
    on_model: OnModel | None,
    mesh: Mesh | None,
    config: Any,
    on_meta: Callable[[], nn.Module],
) -> None:
    from ..model.parameters import parameter_table
    from ..runtime.memory_guard import most_parameters, refuse_too_large

    share = mesh.memory_share.weights if mesh is not None else 1
    if not force:
        bounds = (
            lambda: int(share * 8 * most_parameters(config.to_dict())),
            lambda: int(share * parameter_table(on_meta()).bytes),
        )
        refuse_too_large("this model", options.device, bounds)
    if on_model is not None:
        on_model(config, on_meta, path, mesh)


def _commit(
    draft: Draft,
    model: nn.Module,
    limit: int,
    options: BuildOptions,
    callbacks: ProgressCallbacks,
    processes: Processes | None,
) -> SaveReport | None:
    """Commit directory and weights in one step: a new directory with its weights, or the index of an existing one."""
    from ..checkpoint.write.commit import refuse_special
    from ..checkpoint.write.locking import LOCK, hold_saves, saving_errors
    from ..checkpoint.write.save import save_model
    from ..checkpoint.write.save_job import Job, superseded

    target = draft.target

    def commit(drop: set[str]) -> ModelDirectory:
        with hold_saves(target, callbacks.wait):
            return draft.commit(drop=drop)

    def save(job: Job) -> SaveReport:
        with saving_errors(target):
            if not draft.is_new:
                with hold_saves(target, callbacks.wait):
                    return job.save(target)
            refuse_special(target)
            written = job.write_into(draft.path)
            commit(superseded(target))
            return job.report(target, written)

    saved = None
    if options.save_checkpoint:
        how: dict[str, Any] = {"safetensors": options.safetensors, "limit": limit, "on_progress": callbacks.saving}
        saved = save_model(model, save, target, **how)
        if processes is not None:
            draft.result = processes.broadcast(draft.result)
    elif processes is None:
        commit({LOCK})
    else:
        draft.result = processes.first(lambda: commit({LOCK}))
    return saved


def _refuse_unset(options: BuildOptions, loaded: LoadReport) -> None:
    unset = [*(item.name for item in loaded.missing), *(item.name for item in loaded.other_shape)]
    if options.no_init_weights and unset:
        names = ", ".join(unset[:3]) + (", ..." if len(unset) > 3 else "")
        problem = f"does not contain {names}, which --no-init-weights leaves uninitialized"
        raise BuildError(problem, file=loaded.path, hint="remove --no-init-weights")


def _refuse_contradictions(resolved: ResolvedModel) -> None:
    options = resolved.build
    if options.device == "meta":
        for flag, given in (
            ("--save-checkpoint", options.save_checkpoint),
            ("--load-from-checkpoint", options.load_from_checkpoint),
        ):
            if given:
                raise BuildError("requires a real device instead of meta", option=flag, hint="add --device cpu")
    if options.save_checkpoint and options.no_init_weights and options.load_from_checkpoint is None:
        problem = "would save the memory that --no-init-weights leaves uninitialized"
        hint = "add --load-from-checkpoint, or remove --no-init-weights"
        raise BuildError(problem, option="--save-checkpoint", hint=hint)
