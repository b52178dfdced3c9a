"""`python -m tests.mutants.copies`: do the checks find mistakes in copies of transformers' models?

The fourth to sixth sets in `blind/` have mistakes by authors who saw neither the checks nor their documentation.
Each one is planted in a directory with a copy of transformers' code. A mistake counts as found if a check fails that
holds on the copy without a mistake.

    python -m tests.mutants.copies [--set sixth] [--only TEXT] [--quick] [--against] [--jobs 2] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from forgather_core.checks import CHECKS, FAILED, choose, verify
from forgather_core.checks.other_implementation import other_implementation
from forgather_core.checks.shared.scope import Scope
from forgather_core.definitions.check import failure_text
from forgather_core.runtime.child_process import ChildDiedError, ChildProcesses
from forgather_core.runtime.quiet import quiet_transformers
from tests.support.remote_code import write_remote_code

SETS = ("fourth", "fifth", "sixth")
SECONDS = 1800.0  # time limit of one directory


@dataclass(frozen=True)
class Task:
    """A copy to verify.

    Args:
        name: The name of the mistake; that of the original is "without a mistake".
        model: The model type.
        edits: The texts to replace, and their replacements.
        values: Values of the configuration.
        quick: Run the quick checks only.
        against: Run only the comparison with the original class; otherwise, run all other checks.
        checks: Run only these checks; empty runs all.
    """

    name: str
    model: str
    edits: tuple[tuple[str, str], ...] = ()
    values: dict[str, Any] = field(default_factory=dict)
    quick: bool = False
    against: bool = False
    checks: tuple[str, ...] = ()


@dataclass
class Result:
    """The failures of a copy: name of a check -> its first failures; `died` is the reason why there are none."""

    name: str
    model: str
    failures: dict[str, list[str]] = field(default_factory=dict)
    died: str | None = None


def mistakes(name: str) -> list[dict[str, Any]]:
    """Return the entries of a set."""
    file = Path(__file__).parent / "blind" / f"{name}_set.json"
    entries: list[dict[str, Any]] = json.loads(file.read_text(encoding="utf-8"))
    return entries


def run_task(task: Task) -> Result:
    """Write a copy, and verify it."""
    result = Result(task.name, task.model)
    names = task.checks or [check.name for check in CHECKS if (check is other_implementation) is task.against]
    chosen = [one for one in choose(CHECKS, names) if one.quick or not task.quick]
    scope = Scope(quick=task.quick, trust_remote_code=True)
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings(action="ignore"), quiet_transformers():
        directory = Path(folder) / f"copy_{task.model}_{abs(hash(task.edits))}"
        write_remote_code(task.model, directory, task.edits, **task.values)
        for row in verify(directory, chosen, scope=scope)["checks"]:
            if row["result"] == FAILED:
                texts = [failure_text(case) for case in row["measured"] if not case["holds"]]
                result.failures[row["name"]] = ([row["reason"]] if row["reason"] else []) + texts[:3]
    return result


def new_failures(result: Result, original: Result) -> dict[str, list[str]]:
    """Return the failures of checks that hold on the original."""
    return {name: texts for name, texts in result.failures.items() if name not in original.failures}


def main(arguments: Sequence[str] | None = None) -> int:
    """Verify the copies, print the results, and return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--set", choices=SETS, default=SETS[-1], help="the set (default: %(default)s)")
    parser.add_argument("--only", default="", help="only mistakes with one of these texts in name or model")
    parser.add_argument("--quick", action="store_true", help="run the quick checks only")
    parser.add_argument("--against", action="store_true", help="run only the comparison with the original class")
    parser.add_argument("--jobs", type=int, default=2, help="copies at once (default: %(default)s)")
    parser.add_argument("--json", type=Path, help="also write the results as JSON")
    given = parser.parse_args(arguments)
    texts = given.only.split(",")
    chosen = [one for one in mistakes(given.set) if any(text in f"{one['name']} {one['model']}" for text in texts)]
    how = {"quick": given.quick, "against": given.against}
    originals = {
        (one["model"], json.dumps(one["values"])): Task("without a mistake", one["model"], (), one["values"], **how)
        for one in chosen
    }
    tasks = [*originals.values()] + [
        Task(one["name"], one["model"], tuple((old, new) for old, new in one["edits"]), one["values"], **how)
        for one in chosen
    ]
    results: dict[str, Result] = {}
    with ChildProcesses(run_task, count=given.jobs, seconds=SECONDS, single_use=True) as run:
        for task, ended in run.as_completed(tasks):
            died = isinstance(ended, ChildDiedError)
            result = Result(task.name, task.model, died=str(ended)) if died else ended
            results[_key(task)] = result
            print(f"{task.model} {task.name}: {result.died or ', '.join(result.failures) or 'no failure'}", flush=True)
    if given.json:
        given.json.write_text(json.dumps([asdict(one) for one in results.values()], indent=1) + "\n", encoding="utf-8")
    return _summary(chosen, tasks, originals, results)


def _key(task: Task) -> str:
    return json.dumps([task.model, task.name, task.values])


def _summary(
    chosen: list[dict[str, Any]], tasks: list[Task], originals: dict[tuple[str, str], Task], results: dict[str, Result]
) -> int:
    """Print the mistakes that were found and missed, by kind."""
    found: dict[str, list[str]] = {"promise": [], "identity": []}
    missed: dict[str, list[str]] = {"promise": [], "identity": []}
    by_name = {task.name: task for task in tasks}
    for one in chosen:
        original = results[_key(originals[one["model"], json.dumps(one["values"])])]
        result = results[_key(by_name[one["name"]])]
        if original.died or result.died:
            print(f"{one['model']} {one['name']}: {original.died or result.died}")
        is_found = not original.died and bool(new_failures(result, original))
        (found if is_found else missed)[one["kind"]].append(one["name"])
    for kind, names in missed.items():
        count = len(found[kind])
        print(f"{kind}: {count} of {count + len(names)} found; missed: {', '.join(names) or 'none'}")
    return int(any(missed.values()))


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # several copies run at once
    sys.exit(main())
