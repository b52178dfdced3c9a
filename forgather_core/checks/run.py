"""Run and time checks, and report their results."""

from __future__ import annotations

import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..definitions.check import Check
from ..errors import CheckError
from ..model.directory_errors import directory_problem, edited, load_config, loading_errors
from ..model.parameters import parameter_table
from ..options.parallel import parallel_sizes
from ..parallel.splits import check_split, tensor_plan
from ..runtime.child_process import ChildDiedError, ChildProcesses, can_fork
from ..runtime.memory_guard import most_parameters, refuse_too_large
from ..runtime.partial_results import keep_partial
from ..runtime.quiet import quiet_transformers
from .against.find import find_counterpart
from .shared.model_under_test import ModelUnderTest
from .shared.processes import process_count
from .shared.scope import DEFAULT_SCOPE, Scope
from .shared.traced import import_tracer
from .shared.trust import require_trust
from .try_check import EXPECTED, FAILED, PASSED, SKIPPED, row_of, try_check, with_expected
from .unbuildable import join_findings

if TYPE_CHECKING:
    from ..settings.resolved_model import ResolvedModel

_MAX_SECONDS = 7200  # time limit of a check
_MOST_PROCESSES = 2  # call-agreement starts its own, too
_LONGEST = "call-agreement"
_COPIES_OF_OTHER = 3  # the other implementation: the plain model, that of a case, one in 16 bits
_COPIES = 6  # copies of the weights: call-agreement has up to three models, and three sets of gradients


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
        full: Check the full model instead of a small copy with the same features.
        seed: Seed of weights and texts.
        scope: How much the checks cover.
        force: Run even if the memory is too small for the full model.
        left_out: A sentence for each plugin whose checks cannot be loaded although they were requested.
        on_check: Called with the name of each check before it runs, and at the end with that of one that still runs.
        on_partial: Called with the report of the checks so far if the run ends early.

    Returns:
        The report, as plain data: directory, full, seed, checks (name, promise, result, measured, reason, cause,
        seconds, details), seconds (of the run; checks overlap), passed, failed, skipped, expected (failures that the
        definition expects), complete (all requested checks ran), notes.

    Raises:
        CheckError: The directory is not a model directory, or one of its files cannot be read.
        BuildError: There is not enough memory.
    """
    if problem := directory_problem(directory):
        raise CheckError(problem, file=directory, hint="name a model directory")
    require_trust(directory, trusted=scope.trust_remote_code)
    with ExitStack() as stack:
        workdir = stack.enter_context(tempfile.TemporaryDirectory(prefix="forgather-verify-"))
        stack.enter_context(quiet_transformers())
        stack.enter_context(warnings.catch_warnings(action="ignore"))
        subject = ModelUnderTest(directory, Path(workdir), resolved=resolved, full=full, seed=seed, scope=scope)
        if names := edited(directory):
            _try_imports(subject)
            if "config.json" in names:
                _try_values(subject)
        if scope.against is not None:
            # A mistake in its name is found before any work.
            find_counterpart(scope.against, trusted=scope.trust_remote_code)
        if scope.parallel is not None:
            _refuse_split(directory, scope.parallel)
        if full and not force:
            _refuse_too_large(subject)
        rows: dict[int, dict[str, Any]] = {}
        report = partial(_report, directory, rows, full=full, seed=seed, began=time.perf_counter())

        def keep(reason: str) -> None:
            if rows and on_partial is not None:
                ended = f"ended early, after {len(rows)} of {len(checks)} checks: {reason}"
                on_partial(report([*left_out, ended]))

        with keep_partial(keep):
            for number, row in _rows(checks, subject, on_check or (lambda _: None)):
                rows[number] = row
            join_findings(rows, subject)
    return report(left_out)


def _rows(
    checks: Sequence[Check], subject: ModelUnderTest, on_check: Callable[[str], None]
) -> Iterator[tuple[int, dict[str, Any]]]:
    """Run the checks, and yield the number and the row of each as soon as it is known."""
    count = process_count(subject, _MOST_PROCESSES) if can_fork() else 1
    running = dict[int, float]()  # when each began
    if _LONGEST in {check.name for check in checks}:
        import_tracer()  # once, before processes are forked

    def numbers() -> Iterator[int]:
        # Beside the others, the longest one begins first. Otherwise it is the last: an interrupted run has the others.
        for number in sorted(range(len(checks)), key=lambda n: (checks[n].name == _LONGEST) is (count == 1)):
            on_check(checks[number].name)
            running[number] = time.perf_counter()
            yield number
        for number in running:
            on_check(checks[number].name)

    with ChildProcesses(partial(_run, checks, subject), count=count, seconds=_seconds(subject)) as run:
        for number, row in run.as_completed(numbers()):
            began = running.pop(number)
            if isinstance(row, ChildDiedError):
                failed = row_of(checks[number], FAILED, began=began, reason=str(row))
                yield number, with_expected(failed, subject)
            else:
                yield number, row


def _seconds(subject: ModelUnderTest) -> float | None:
    """Return the time limit of a check; call-agreement limits its cases, which may be many."""
    return None if subject.full or subject.scope.strength > Scope.strength else _MAX_SECONDS


def _run(checks: Sequence[Check], subject: ModelUnderTest, number: int) -> dict[str, Any]:
    return try_check(checks[number], subject)


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


def _refuse_split(directory: Path, parallel: str) -> None:
    """Refuse a mesh over which the model cannot be split."""
    config = load_config(directory, CheckError).get_text_config()
    check_split(config.to_dict(), tensor_plan(config), parallel_sizes(parallel))


def _refuse_too_large(subject: ModelUnderTest) -> None:
    config = subject.config()
    copies = _COPIES + (_COPIES_OF_OTHER if subject.scope.against is not None else 0)
    needs = (
        lambda: copies * 4 * most_parameters(config.to_dict()),
        lambda: copies * parameter_table(subject.on_meta()).bytes,
    )
    refuse_too_large("a check of the full model (--full)", "cpu", needs)


def _report(
    directory: Path, rows: Mapping[int, dict[str, Any]], notes: Sequence[str], *, full: bool, seed: int, began: float
) -> dict[str, Any]:
    """Return the report; `notes` has a sentence for each reason why requested checks did not run."""
    results = [row["result"] for row in rows.values()]
    count = {result: results.count(result) for result in (PASSED, FAILED, SKIPPED, EXPECTED)}
    return {
        "directory": str(directory),
        "full": full,
        "seed": seed,
        "checks": [rows[number] for number in sorted(rows)],
        "seconds": time.perf_counter() - began,
        "passed": count[PASSED],
        "failed": count[FAILED],
        "skipped": count[SKIPPED],
        "expected": count[EXPECTED],
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
        keep: Use an existing directory unchanged, even if it is edited or stale.
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
