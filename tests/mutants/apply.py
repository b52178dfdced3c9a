"""Write model directories with a mistake, and run the checks on them."""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass, field
from io import StringIO
from pathlib import Path
from typing import Any, Literal

from forgather_core.checks import CHECKS, FAILED, Check, verify
from forgather_core.checks.shared.scope import Scope
from forgather_core.commands.construct import construct
from forgather_core.definitions.check import failure_text
from forgather_core.definitions.registry import registry
from forgather_core.runtime.child_process import ChildDiedError, ChildProcesses
from forgather_core.settings.layers import find_configuration
from forgather_core.settings.resolve import resolve
from forgather_core.settings.resolved_model import ResolvedModel

from .catalogue import Mutant

UNINFORMATIVE_CHECK = "manifest"  # digests detect any change
DEFERRED = (
    "attention-backends", "call-agreement", "call-state", "round-trip", "config-fields", "torch-compile",
    "no-dead-options", "other-options", "standalone",
)  # fmt: skip
REFERENCE_CHECKS = ("reference-parity", "init-std")  # they do not apply if the definition has no reference
TIMEOUT = 900.0  # seconds for one directory

# "deferred" runs a deferred check only if no other check catches the mutant, or if the mutant's entry names it.
# "named" runs only the check that the entry names. "all" runs every check.
Selection = Literal["all", "deferred", "named"]


def checks(names: Sequence[str] = ()) -> list[Check]:
    """Return the checks with these names, or all checks except `manifest`."""
    return [check for check in CHECKS if (check.name in names if names else check.name != UNINFORMATIVE_CHECK)]


@dataclass(frozen=True)
class Original:
    """A directory without a mistake, and its resolved model."""

    name: str
    path: Path
    resolved: ResolvedModel


class Originals:
    """The directories without a mistake, each written when it is first needed.

    Args:
        workdir: The parent of the directories.
    """

    def __init__(self, workdir: Path) -> None:
        self.workdir = workdir
        self.made: dict[str, Original] = {}

    def of(self, mutant: Mutant) -> Original:
        """Return the directory of which a mutant changes a copy."""
        options = ", ".join(f"{name}={value}" for name, value in mutant.options.items())
        name = f"{mutant.definition} ({options})" if options else mutant.definition
        if name not in self.made:
            path = self.workdir / f"original_{len(self.made)}"
            flags = {"output_dir": path, **mutant.options}
            resolved = resolve(find_configuration(mutant.definition, registry(), Path()), flags)
            self.made[name] = Original(name, construct(resolved).directory.path, resolved)
        return self.made[name]


def mutated(mutant: Mutant, original: Original, workdir: Path) -> Path:
    """Return a copy of the directory with the mistake.

    Raises:
        ValueError: The file does not contain the text that the mutant replaces.
    """
    path = workdir / mutant.name.replace("-", "_")  # the name of a Python package, once loaded
    shutil.copytree(original.path, path)
    file = path / mutant.file
    file.write_text(mutant.applied(file.read_text(encoding="utf-8")), encoding="utf-8")
    return path


@dataclass
class Outcome:
    """The results of the checks on a directory.

    Args:
        name: The name of the mutant or the original.
        failed: The first failure message of each failed check, by the check's name.
        seconds: The duration of each check in seconds, by the check's name.
    """

    name: str
    failed: dict[str, str] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)


def run_checks(
    name: str,
    path: Path,
    resolved: ResolvedModel,
    todo: Iterable[Check],
    deferred: Collection[str] = (),
    *,
    quick: bool = True,
) -> Outcome:
    """Run checks on a directory. A check that raises counts as failed.

    Args:
        name: The name of the mutant or the original.
        path: The directory.
        resolved: The resolved model of the directory.
        todo: The checks.
        deferred: Names of checks that run last, and only if no check without a reference has failed.
        quick: Run the levels of a quick run.
    """
    outcome = Outcome(name)
    for check in sorted(todo, key=lambda check: check.name in deferred):
        if check.name in deferred and outcome.failed.keys() - REFERENCE_CHECKS:
            break
        start = time.perf_counter()
        try:
            with redirect_stdout(StringIO()), redirect_stderr(StringIO()):
                row = verify(path, [check], resolved=resolved, scope=Scope(quick=quick))["checks"][0]
            message = _first_failure(row) if row["result"] == FAILED else None
        except Exception as error:  # the configuration cannot be loaded
            message = f"{type(error).__name__}: {error}"
        outcome.seconds[check.name] = time.perf_counter() - start
        if message is not None:
            outcome.failed[check.name] = message
    return outcome


def _first_failure(row: dict[str, Any]) -> str:
    failed_case = next((measured for measured in row["measured"] if not measured["holds"]), None)
    return str(row["reason"]) if failed_case is None else failure_text(failed_case)


def run(
    mutants: Sequence[Mutant], todo: Sequence[Check], *, jobs: int, selection: Selection = "all"
) -> Iterator[tuple[Mutant | None, Outcome]]:
    """Run the checks on each directory without a mistake, then on each mutant.

    A check that fails on a directory without a mistake does not run on its mutants. The other checks run in the order
    of their duration, shortest first. Each directory has its own process, forked from this one, so that no state
    remains. A process that is killed or hangs is a failure named `process`.

    Yields:
        The mutant and its outcome; None in place of the mutant for a directory without a mistake.
    """
    with tempfile.TemporaryDirectory(prefix="forgather-mutants-") as name:
        workdir = Path(name)
        originals = Originals(workdir)
        unmutated = {(original := originals.of(mutant)).name: original for mutant in mutants}
        named = {(originals.of(mutant).name, mutant.check) for mutant in mutants}
        passing = {}
        work = [
            _Work(
                original.name,
                original.path,
                original.resolved,
                [check for check in todo if selection != "named" or (original.name, check.name) in named],
            )
            for original in unmutated.values()
        ]
        for _, outcome in _in_processes(work, jobs=jobs):
            sound = [check for check in todo if check.name not in outcome.failed]
            passing[outcome.name] = sorted(sound, key=lambda check: outcome.seconds.get(check.name, 0.0))
            yield None, outcome
        work = []
        for mutant in mutants:
            original = originals.of(mutant)
            chosen = [c for c in passing[original.name] if selection != "named" or c.name == mutant.check]
            deferred = set(DEFERRED) - {mutant.check} if selection == "deferred" else set[str]()
            path = mutated(mutant, original, workdir)
            work.append(_Work(mutant.name, path, original.resolved, chosen, deferred, mutant))
        yield from _in_processes(work, jobs=jobs)


@dataclass(frozen=True)
class _Work:
    name: str
    path: Path
    resolved: ResolvedModel
    todo: Sequence[Check]
    deferred: Collection[str] = ()
    mutant: Mutant | None = None


def _in_processes(work: Sequence[_Work], *, jobs: int) -> Iterator[tuple[Mutant | None, Outcome]]:
    def outcome_of(number: int) -> Outcome:  # torch and transformers are imported once
        item = work[number]
        quick = item.mutant is None or item.mutant.quick
        return run_checks(item.name, item.path, item.resolved, item.todo, item.deferred, quick=quick)

    with ChildProcesses(outcome_of, count=jobs, seconds=TIMEOUT, single_use=True) as run_one:
        for number, result in run_one.map(range(len(work))):
            item = work[number]
            died = isinstance(result, ChildDiedError)
            yield item.mutant, Outcome(item.name, {"process": str(result)}) if died else result
