"""`verify` and the list of its checks as functions."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from forgather_core.errors import ConfigurationError
from forgather_core.filesystem.output_file import check_output_file, write_output_file
from forgather_core.filesystem.paths import expanded
from forgather_core.options.command_options import VerifyOptions
from forgather_core.options.plain_options import VerifyDirectoryOptions

from .calls import Call, Model, options_of_listing, take
from .listings import CheckList
from .model_results import Verification
from .progress import SILENT, Progress, partial_of
from .public import public

if TYPE_CHECKING:
    from forgather_core.checks import Check


@public()
def verify(
    model: Model, *, project: str | Path | None = None, progress: Progress = SILENT, **options: Any
) -> Verification:
    """Verify that a model behaves as a causal language model must.

    Args:
        model: The path of a model directory or of a config.json (as a `Path`), exported by Forgather or any causal
            language model of Hugging Face; or a definition or preset, a YAML file, or a resolved model.
        project: See `construct`.
        progress: Callbacks.
        **options: The options of `forgather model verify`, such as `checks=["causality", "padding"]`, `quick=True`; for
            a model directory: those of `forgather verify`.

    Raises:
        TypeError: There is no option of that name.
        ForgatherError: There is no such model or check, or a file of the directory cannot be read.
    """
    if isinstance(model, Path) and model.suffix not in {".yaml", ".yml"}:
        if project is not None:
            raise TypeError("verify() does not accept project for a directory: remove it")
        return _verify_directory(model, progress, options)
    if options.get("list"):
        raise TypeError("verify() does not support list: call list_checks()")
    call = Call("verify", model, project, options)
    chosen = call.take(VerifyOptions)
    from forgather_core.checks import requested_scope, verify_settings
    from forgather_core.training.random_state import kept_random_state

    parallel = call.resolved.build.parallel
    checks, left_out = _chosen(chosen, progress, parallel)
    with kept_random_state():
        report = verify_settings(
            call.resolved,
            checks,
            project=call.model_project(),
            refresh=call.run.refresh_model,
            keep=call.run.keep,
            full=chosen.full,
            scope=requested_scope(chosen, parallel),
            force=call.run.force,
            left_out=left_out,
            on_check=progress.item,
            on_partial=_on_partial(progress, chosen),
        )
    return _written(report, chosen)


@public()
def list_checks(
    model: Model | None = None, *, project: str | Path | None = None, progress: Progress = SILENT, **options: Any
) -> CheckList:
    """List the checks of `verify`, including those of plugins.

    Args:
        model: A model whose options are validated too; None validates no options.
        project: Directory in which YAML configurations are looked up; None: the working directory.
        progress: Callbacks; `note` gets a sentence for each plugin whose checks cannot be loaded.
        **options: `checks` and `quick` select checks; with a model, also its options.

    Raises:
        TypeError: There is no option of that name.
        CheckError: There is no check of that name.
    """
    if model is None and project is not None:
        raise TypeError("list_checks() requires a model for project: add the model, or remove project")
    chosen = (
        take(VerifyOptions, "list_checks", options, options_of_listing(VerifyOptions))
        if model is None
        else Call("list_checks", model, project, options).take(VerifyOptions)
    )
    checks, _ = _chosen(chosen, progress)
    return CheckList({"checks": [{"name": check.name, "promise": check.promise} for check in checks]})


def _verify_directory(directory: Path, progress: Progress, options: Mapping[str, Any]) -> Verification:
    chosen = take(VerifyDirectoryOptions, "verify", options)
    if chosen.force and not chosen.full:
        raise ConfigurationError("requires --full", option="--force")
    from forgather_core.checks import requested_scope
    from forgather_core.checks import verify as run
    from forgather_core.checks.shared.configuration_file import model_directory
    from forgather_core.training.random_state import kept_random_state

    checks, left_out = _chosen(chosen, progress, chosen.parallel)
    with kept_random_state(), model_directory(directory) as found:
        report = run(
            found,
            checks,
            seed=chosen.seed,
            full=chosen.full,
            scope=requested_scope(chosen, chosen.parallel),
            force=chosen.force,
            left_out=left_out,
            on_check=progress.item,
            on_partial=_on_partial(progress, chosen),
        )
    return _written(report | {"directory": str(directory)}, chosen)


def _written(report: dict[str, Any], options: VerifyOptions | VerifyDirectoryOptions) -> Verification:
    """Return the result, written as JUnit XML on request."""
    if options.junit is not None:
        from forgather_core.checks.junit import junit_xml

        write_output_file(expanded(str(options.junit)), junit_xml(report).encode(), "--junit")
    return Verification(report)


def _on_partial(
    progress: Progress, options: VerifyOptions | VerifyDirectoryOptions
) -> Callable[[dict[str, Any]], None] | None:
    """Return a function that reports the results of an interrupted run; None if there is no use for them."""
    if options.junit is None:
        return partial_of(progress, Verification)

    def report_partial(report: dict[str, Any]) -> None:
        result = _written(report, options)
        if progress.partial is not None:
            progress.partial(result)

    return report_partial


def _chosen(
    options: VerifyOptions | VerifyDirectoryOptions, progress: Progress, parallel: str | None = None
) -> tuple[list[Check], list[str]]:
    """Return the requested checks, and a sentence for each plugin whose requested checks cannot be loaded."""
    if options.junit is not None:
        check_output_file(expanded(str(options.junit)), "--junit")
    from forgather_core.checks import requested_checks

    broken: list[str] = []

    def note(text: str) -> None:
        broken.append(text)
        if progress.note is not None:
            progress.note(text)

    checks = requested_checks(options, note, parallel=parallel)
    return checks, broken if options.checks is None else []  # otherwise all given names exist
