"""Checks are run, timed and reported."""

from __future__ import annotations

import tempfile
import time
import traceback
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..definitions.check import Check, DoesNotApply, Measured
from ..errors import CheckError
from ..model.directory_errors import edited, loading_errors
from ..model.parameters import parameter_table
from ..options.spec import did_you_mean
from ..runtime.memory_guard import most_parameters, refuse_too_large
from ..runtime.out_of_memory import out_of_memory
from ..runtime.partial_results import keep_partial
from ..runtime.quiet import quiet_transformers
from .attentions import uncompiled
from .subject import FLEX, ModelUnderTest

if TYPE_CHECKING:
    from ..options.command_options import VerifyOptions
    from ..settings.resolve import Settings

PASSED, FAILED, SKIPPED = "passed", "failed", "does not apply"
NOTHING = "it measured nothing"
_COPIES = 3  # of the weights: most checks have two models, or one and its gradients beside another
NO_GRADIENTS = f"the model refuses eager and sdpa, and {FLEX} has no gradients on CPU"


def asked_for(options: VerifyOptions, on_broken: Callable[[str], object] = warnings.warn) -> list[Check]:
    """The checks that options name, in the order in which they are known; plugins' are among them.

    Args:
        options: Names; whether all are meant.
        on_broken: Told, in a sentence, of a plugin whose checks cannot be had.

    Raises:
        CheckError: There is no check of such a name.
    """
    from .known import known_checks

    names = [name.strip() for name in (options.checks or "").split(",") if name.strip()]
    return choose(known_checks(on_broken=on_broken), names, quick=options.quick)


def choose(checks: Iterable[Check], names: Sequence[str] = (), *, quick: bool = False) -> list[Check]:
    """Those of these names, or all, in the order in which they are known.

    Args:
        checks: All that there are.
        names: Empty takes all.
        quick: Leave out those that take long, unless they are named.

    Raises:
        CheckError: There is no check of such a name.
    """
    known = {check.name: check for check in checks}
    for name in names:
        if name not in known:
            raise CheckError(f"--checks: there is no check '{name}'{did_you_mean(name, known)} (--list tells them)")
    return [check for name, check in known.items() if (name in names if names else check.quick or not quick)]


def verify(
    directory: Path,
    checks: Sequence[Check],
    *,
    settings: Settings | None = None,
    full: bool = False,
    seed: int = 0,
    force: bool = False,
    on_check: Callable[[str], None] | None = None,
    on_partial: Callable[[dict[str, Any]], None] | None = None,
) -> dict[str, Any]:
    """Try promises on a model directory.

    Args:
        directory: Ours, or any causal language model's of Hugging Face.
        checks: What to try.
        settings: What the directory was made of, where a definition is checked.
        full: Take the configuration as it is, rather than a small one with the same features.
        seed: Of weights and texts.
        force: Try it even if there is not enough memory for a model that is taken as it is.
        on_check: Called with the name of each before it is tried.
        on_partial: Called with the report of the checks so far if the run ends early.

    Returns:
        The report, as plain data: directory, full, seed, checks (name, promise, result, measured, reason, cause,
        seconds), passed, failed, skipped.

    Raises:
        CheckError: It is no model directory, or one of its files cannot be read.
        BuildError: There is not enough memory.
    """
    if not (directory / "config.json").exists():
        raise CheckError(f"{directory} is no model directory: it has no config.json")
    with ExitStack() as stack:
        place = stack.enter_context(tempfile.TemporaryDirectory(prefix="forgather-verify-"))
        stack.enter_context(quiet_transformers())
        stack.enter_context(warnings.catch_warnings(action="ignore"))
        subject = ModelUnderTest(directory, Path(place), settings=settings, full=full, seed=seed)
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
                on_partial(_report(directory, rows, full=full, seed=seed) | {"notes": [ended]})

        with keep_partial(keep):
            for check in checks:
                if on_check is not None:
                    on_check(check.name)
                rows.append(try_check(check, subject))
    return _report(directory, rows, full=full, seed=seed)


def _try_imports(subject: ModelUnderTest) -> None:
    """Refuse a directory whose edited code cannot be imported. What it raises later is for the checks to report."""
    with loading_errors(subject.directory, CheckError):
        try:
            subject.on_meta()
        except (SyntaxError, ImportError, OSError):
            raise
        except Exception:
            return


def _try_values(subject: ModelUnderTest) -> None:
    """Refuse an edited config.json that no model can be made of. The small copy has other sizes."""
    with loading_errors(subject.directory, CheckError, imports_only=True):
        subject.whole_on_meta()


def _refuse_too_large(subject: ModelUnderTest) -> None:
    config = subject.config()
    needs = (
        lambda: _COPIES * 4 * most_parameters(config.to_dict()),
        lambda: _COPIES * parameter_table(subject.on_meta()).bytes,
    )
    refuse_too_large("this model as it is", "cpu", needs)


def _report(directory: Path, rows: list[dict[str, Any]], *, full: bool, seed: int) -> dict[str, Any]:
    count = {result: sum(row["result"] == result for row in rows) for result in (PASSED, FAILED, SKIPPED)}
    return {
        "directory": str(directory),
        "full": full,
        "seed": seed,
        "checks": rows,
        "passed": count[PASSED],
        "failed": count[FAILED],
        "skipped": count[SKIPPED],
    }


def verify_settings(
    settings: Settings,
    checks: Sequence[Check],
    *,
    project: Path = Path(),
    refresh: bool = False,
    keep: bool = False,
    full: bool = False,
    force: bool = False,
    on_check: Callable[[str], None] | None = None,
    on_partial: Callable[[dict[str, Any]], None] | None = None,
) -> dict[str, Any]:
    """Try promises on the model directory of settled options, which is written where there is none.

    Args:
        settings: The settled options; their seed is that of weights and texts.
        checks: What to try.
        project: The project directory, where `output_models` lies.
        refresh: Rebuild an existing directory.
        keep: Use an existing directory as it is.
        full: As for `verify`.
        force, on_check, on_partial: Likewise.

    Returns:
        The report of `verify`, with model_name and notes.
    """
    from ..export.directory import prepare_directory

    directory = prepare_directory(settings, settings.target(project), refresh=refresh, keep=keep)

    def named(report: dict[str, Any]) -> dict[str, Any]:
        notes = [*directory.notes, *report.get("notes", ())]
        return {"model_name": settings.model_name, **report, "notes": notes}

    partial = None if on_partial is None else lambda report: on_partial(named(report))
    seed = settings.build.seed
    more: dict[str, Any] = {"full": full, "force": force, "on_check": on_check, "on_partial": partial}
    return named(verify(directory.path, checks, settings=settings, seed=seed, **more))


def try_check(check: Check, subject: ModelUnderTest) -> dict[str, Any]:
    """Run one check, and return its row of the report.

    A check passes only if it has measured something and everything holds. One that raises has failed, with the text of
    the error as its reason. One that measures nothing does not apply.
    """
    began = time.perf_counter()
    measured: list[Measured] = []
    reason = None
    try:
        with uncompiled() if _has_flex_alone(subject) else nullcontext():
            measured.extend(_measurements(check, subject))
        if not measured:
            raise DoesNotApply(NOTHING)
        result = PASSED if all(one.holds for one in measured) else FAILED
    except DoesNotApply as error:
        result, reason = (FAILED if any(not one.holds for one in measured) else SKIPPED), str(error)
    except NotImplementedError as error:
        # flex_attention is taken only where the model refuses the others.
        limited = _is_of_flex(error) and _has_flex_alone(subject) and all(one.holds for one in measured)
        result, reason = (SKIPPED, NO_GRADIENTS) if limited else (FAILED, _told(error))
    except Exception as error:
        if out_of_memory(error):
            raise  # of the machine, not of the model
        result, reason = FAILED, _told(error)
    return {
        "name": check.name,
        "promise": check.promise,
        "result": result,
        "measured": [one.as_dict() for one in measured],
        "reason": reason,
        "cause": check.cause if result == FAILED else None,
        "seconds": time.perf_counter() - began,
    }


def _has_flex_alone(subject: ModelUnderTest) -> bool:
    try:
        return subject.default_attention == FLEX
    except Exception:  # the model cannot be made at all, which the check has met too
        return False


def _is_of_flex(error: NotImplementedError) -> bool:
    """Whether it is torch's refusal of a backward pass of flex_attention on CPU, and no fault of the model."""
    return "FlexAttention does not support backward" in str(error)


def _measurements(check: Check, subject: ModelUnderTest) -> Iterator[Measured]:
    """What a check yields, which must be measurements whose errors are numbers."""
    for one in check.run(subject) or ():
        if not isinstance(one, Measured):
            raise TypeError(f"the check '{check.name}' yielded a {type(one).__name__}, expected a Measured")
        yield replace(one, error=float(one.error), tolerance=float(one.tolerance))


def _told(error: Exception) -> str:
    """The error, and the line that raised it: of the model's own files where one of them is on the way."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if "transformers_modules" in frame.filename] or frames
    place = f"{Path(own[-1].filename).name}:{own[-1].lineno}"
    return f"{type(error).__name__}: {' '.join(str(error).split())} ({place})"
