"""Run and time checks, and report their results."""

from __future__ import annotations

import tempfile
import time
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, nullcontext, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..definitions.check import Check, Details, DoesNotApply, Measured
from ..errors import CheckError
from ..model.directory_errors import directory_problem, edited, loading_errors
from ..model.parameters import parameter_table
from ..runtime.child_process import ChildDiedError, ChildProcesses
from ..runtime.memory_guard import most_parameters, refuse_too_large
from ..runtime.out_of_memory import out_of_memory
from ..runtime.partial_results import keep_partial
from ..runtime.quiet import quiet_transformers
from .implementations import uncompiled
from .model_under_test import FLEX, ModelUnderTest
from .scope import DEFAULT_SCOPE, Scope

if TYPE_CHECKING:
    from ..settings.resolved_model import ResolvedModel

PASSED, FAILED, SKIPPED = "passed", "failed", "skipped"
NOTHING = "it measured nothing"
_MAX_SECONDS = 1800  # of a check
_COPIES = 3  # copies of the weights: most checks have two models, or two models and the gradients of one
NO_GRADIENTS = f"the model refuses eager and sdpa, and {FLEX} does not support gradients on CPU"


def verify(
    directory: Path,
    checks: Sequence[Check],
    *,
    resolved: ResolvedModel | None = None,
    full: bool = False,
    seed: int = 0,
    scope: Scope = DEFAULT_SCOPE,
    force: bool = False,
    left_out: Sequence[str] = (),
    on_check: Callable[[str], None] | None = None,
    on_partial: Callable[[dict[str, Any]], None] | None = None,
) -> dict[str, Any]:
    """Run checks on a model directory.

    Args:
        directory: A model directory of Forgather, or of any causal language model of Hugging Face.
        checks: The checks to run.
        resolved: The resolved model that the directory was written from, if a definition is checked.
        full: Use the configuration as it is, not a small copy with the same features.
        seed: Seed of weights and texts.
        scope: How much the checks cover.
        force: Run even if the memory is too small for the full model.
        left_out: A sentence for each plugin whose checks cannot be loaded although they were requested.
        on_check: Called with the name of each check before it runs.
        on_partial: Called with the report of the checks so far if the run ends early.

    Returns:
        The report, as plain data: directory, full, seed, checks (name, promise, result, measured, reason, cause,
        seconds, details), passed, failed, skipped, complete (all requested checks ran), notes.

    Raises:
        CheckError: The directory is not a model directory, or one of its files cannot be read.
        BuildError: There is not enough memory.
    """
    if problem := directory_problem(directory):
        raise CheckError(problem, file=directory, hint="name a model directory")
    with ExitStack() as stack:
        workdir = stack.enter_context(tempfile.TemporaryDirectory(prefix="forgather-verify-"))
        stack.enter_context(quiet_transformers())
        stack.enter_context(warnings.catch_warnings(action="ignore"))
        subject = ModelUnderTest(directory, Path(workdir), resolved=resolved, full=full, seed=seed, scope=scope)
        if names := edited(directory):
            _try_imports(subject)
            if "config.json" in names:
                _try_values(subject)
        if full and not force:
            _refuse_too_large(subject)
        rows: list[dict[str, Any]] = []

        def keep(reason: str) -> None:
            if rows and on_partial is not None:
                ended = f"ended early, after {len(rows)} of {len(checks)} checks: {reason}"
                on_partial(_report(directory, rows, [*left_out, ended], full=full, seed=seed))

        with keep_partial(keep), ChildProcesses(partial(_run, checks, subject), seconds=_seconds(subject)) as run:
            with suppress(Exception):  # a check will report it
                subject.__dict__["refused_attention"] = run(None)
            for number, check in enumerate(checks):
                if on_check is not None:
                    on_check(check.name)
                began = time.perf_counter()
                try:
                    rows.append(run(number))
                except ChildDiedError as died:
                    rows.append(_row(check, FAILED, began=began, reason=str(died)))
    return _report(directory, rows, left_out, full=full, seed=seed)


def _seconds(subject: ModelUnderTest) -> float | None:
    """Return the time limit of a check; call-agreement limits its cases, which may be many."""
    return None if subject.full or subject.scope.strength > Scope.strength else _MAX_SECONDS


def _run(checks: Sequence[Check], subject: ModelUnderTest, number: int | None) -> dict[str, Any]:
    """Run a check, or return the refused attention implementations, which most checks read."""
    return subject.refused_attention if number is None else try_check(checks[number], subject)


def _try_imports(subject: ModelUnderTest) -> None:
    """Refuse a directory whose edited code cannot be imported. The checks report other errors."""
    with loading_errors(subject.directory, CheckError):
        try:
            subject.on_meta()
        except (SyntaxError, ImportError, OSError):
            raise
        except Exception:
            return


def _try_values(subject: ModelUnderTest) -> None:
    """Refuse an edited config.json from which no model can be built; the small copy has other sizes."""
    with loading_errors(subject.directory, CheckError, imports_only=True):
        subject.whole_on_meta()


def _refuse_too_large(subject: ModelUnderTest) -> None:
    config = subject.config()
    needs = (
        lambda: _COPIES * 4 * most_parameters(config.to_dict()),
        lambda: _COPIES * parameter_table(subject.on_meta()).bytes,
    )
    refuse_too_large("this model as it is", "cpu", needs)


def _report(
    directory: Path, rows: list[dict[str, Any]], notes: Sequence[str], *, full: bool, seed: int
) -> dict[str, Any]:
    """Return the report; `notes` has a sentence for each reason why requested checks did not run."""
    count = {result: sum(row["result"] == result for row in rows) for result in (PASSED, FAILED, SKIPPED)}
    return {
        "directory": str(directory),
        "full": full,
        "seed": seed,
        "checks": rows,
        "passed": count[PASSED],
        "failed": count[FAILED],
        "skipped": count[SKIPPED],
        "complete": not notes,
        "notes": list(notes),
    }


def verify_settings(
    resolved: ResolvedModel,
    checks: Sequence[Check],
    *,
    project: Path | None = None,
    refresh: bool = False,
    keep: bool = False,
    full: bool = False,
    scope: Scope = DEFAULT_SCOPE,
    force: bool = False,
    left_out: Sequence[str] = (),
    on_check: Callable[[str], None] | None = None,
    on_partial: Callable[[dict[str, Any]], None] | None = None,
) -> dict[str, Any]:
    """Run checks on the directory of a resolved model, written first if it does not exist.

    Args:
        resolved: The resolved model; its seed is that of weights and texts.
        checks: The checks to run.
        project: The project directory, which contains `output_models`; None uses that of the model.
        refresh: Rebuild an existing directory.
        keep: Use an existing directory as it is.
        full, scope, force, left_out, on_check, on_partial: As for `verify`.

    Returns:
        The report of `verify`, with model_name and the notes of the directory.
    """
    from ..export.directory import prepare_directory

    directory = prepare_directory(resolved, resolved.target(project), refresh=refresh, keep=keep)

    def named(report: dict[str, Any]) -> dict[str, Any]:
        return {"model_name": resolved.model_name, **report, "notes": [*directory.notes, *report["notes"]]}

    partial = None if on_partial is None else lambda report: on_partial(named(report))
    seed = resolved.build.seed
    more: dict[str, Any] = {
        "full": full,
        "scope": scope,
        "force": force,
        "left_out": left_out,
        "on_check": on_check,
        "on_partial": partial,
    }
    return named(verify(directory.path, checks, resolved=resolved, seed=seed, **more))


def try_check(check: Check, subject: ModelUnderTest) -> dict[str, Any]:
    """Run one check and return its row of the report.

    A check passes only if it measures at least one case and all cases hold. A check that raises fails, with the text of
    the error as its reason. A check that measures nothing is skipped.
    """
    began = time.perf_counter()
    measured: list[Measured] = []
    details: dict[str, Any] = {}
    reason = None
    try:
        with uncompiled() if _has_only_flex(subject) else nullcontext():
            for one in _yielded(check, subject):
                if isinstance(one, Details):
                    details |= one.content
                else:
                    measured.append(one)
        if not measured:
            raise DoesNotApply(NOTHING)
        result = PASSED if all(one.holds for one in measured) else FAILED
    except DoesNotApply as error:
        result, reason = (FAILED if any(not one.holds for one in measured) else SKIPPED), str(error)
    except NotImplementedError as error:
        # flex_attention is used only if the model refuses the others.
        limited = _is_flex_backward(error) and _has_only_flex(subject) and all(one.holds for one in measured)
        result, reason = (SKIPPED, NO_GRADIENTS) if limited else (FAILED, _reason(error))
    except Exception as error:
        if out_of_memory(error):
            raise  # a limit of the machine, not a fault of the model
        result, reason = FAILED, _reason(error)
    return _row(check, result, began=began, reason=reason, measured=measured, details=details)


def _row(
    check: Check,
    result: str,
    *,
    began: float,
    reason: str | None,
    measured: Sequence[Measured] = (),
    details: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    return {
        "name": check.name,
        "promise": check.promise,
        "result": result,
        "measured": [one.as_dict() for one in measured],
        "reason": reason,
        "cause": check.cause if result == FAILED else None,
        "seconds": time.perf_counter() - began,
        "details": dict(details or {}),
    }


def _has_only_flex(subject: ModelUnderTest) -> bool:
    try:
        return subject.default_attention == FLEX
    except Exception:  # the model cannot be built, and the check has failed for the same reason
        return False


def _is_flex_backward(error: NotImplementedError) -> bool:
    """Return whether torch refused the backward pass of flex_attention on CPU, which is no fault of the model."""
    return "FlexAttention does not support backward" in str(error)


def _yielded(check: Check, subject: ModelUnderTest) -> Iterator[Measured | Details]:
    """Yield what a check yields, with errors and tolerances as floats."""
    for one in check.run(subject) or ():
        if isinstance(one, Measured):
            yield replace(one, error=float(one.error), tolerance=float(one.tolerance))
        elif isinstance(one, Details):
            yield one
        else:
            raise TypeError(f"the check '{check.name}' must yield Measured objects; got {type(one).__name__}")


def _reason(error: Exception) -> str:
    """Return the error and the line that raised it, if possible a line of the model's own files."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if "transformers_modules" in frame.filename] or frames
    place = f"{Path(own[-1].filename).name}:{own[-1].lineno}"
    return f"{type(error).__name__}: {' '.join(str(error).split())} ({place})"
