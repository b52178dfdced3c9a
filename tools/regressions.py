"""Run the tests of fixed bugs on an older commit and on this tree.

python tools/regressions.py COMMIT [ENTRY ...]

A test that reproduces a bug is marked `@pytest.mark.regression(ENTRY)`. The older commit is checked out in a temporary
directory with this tree's tests. Each entry must have a test that fails there, and all its tests must pass here.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from tests.regressions import FAULTS, KEPT  # noqa: E402


@dataclass(frozen=True)
class Outcome:
    """The outcome of a test.

    Args:
        test: Name of the test.
        entries: The entries that it reproduces.
        passed: Whether it passed.
        message: First line of its failure; empty if it passed.
    """

    test: str
    entries: tuple[str, ...]
    passed: bool
    message: str


def main() -> int:
    """Print a line for each entry; exit with 1 if an entry has no test or an unexpected outcome."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("commit", help="the commit before the fixes")
    parser.add_argument("entries", nargs="*", help="entries of tests/regressions.py to run (default: all)")
    parser.add_argument("-n", "--processes", default="2", help="processes of pytest-xdist (default: 2)")
    parser.add_argument("--seconds", default="30", help="time limit of a test in seconds (default: 30)")
    arguments = parser.parse_args()
    chosen = arguments.entries or list(FAULTS)
    if unknown := set(chosen) - set(FAULTS):
        parser.error(f"unknown entries: {', '.join(sorted(unknown))}")
    with _checkout(arguments.commit) as old:
        before, after = (_run(tree, arguments, chosen) for tree in (old, ROOT))
    good = [_print_entry(entry, before, after) for entry in chosen]
    print(f"{sum(good)} of {len(good)} entries as expected")
    return 0 if all(good) else 1


@contextmanager
def _checkout(commit: str) -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as work:
        tree = Path(work) / "tree"
        subprocess.run(["git", "worktree", "add", "--quiet", "--detach", tree, commit], cwd=ROOT, check=True)
        try:
            shutil.rmtree(tree / "tests")
            shutil.copytree(ROOT / "tests", tree / "tests", ignore=shutil.ignore_patterns("__pycache__"))
            shutil.copy(ROOT / "pyproject.toml", tree)
            yield tree
        finally:
            subprocess.run(["git", "worktree", "remove", "--force", tree], cwd=ROOT, check=True)


def _run(tree: Path, arguments: argparse.Namespace, entries: list[str]) -> list[Outcome]:
    with tempfile.TemporaryDirectory() as work:
        report = Path(work) / "report.xml"
        # The installed distribution provides the entry points, the tree provides the modules.
        env = os.environ | {"PYTHONPATH": os.pathsep.join((str(tree), str(tree / "plugins"))), "HF_HUB_OFFLINE": "1"}
        env |= {"FORGATHER_TEST_SECONDS": arguments.seconds, "FORGATHER_REGRESSIONS": ",".join(entries)}
        command = [sys.executable, "-m", "pytest", "-q", "-m", "regression", "-n", arguments.processes]
        command += [f"--junitxml={report}"]
        command += ["--continue-on-collection-errors", "-p", "no:cacheprovider"]
        subprocess.run(command, cwd=tree, env=env, check=False, stdout=subprocess.DEVNULL)
        return [_outcome(case) for case in ElementTree.parse(report).iter("testcase")]


def _outcome(case: ElementTree.Element) -> Outcome:
    entries = tuple(p.get("value", "") for p in case.iter("property") if p.get("name") == "regression")
    failure = next((child for child in case if child.tag in ("failure", "error")), None)
    message = "" if failure is None else (failure.get("message") or "").strip().partition("\n")[0]
    return Outcome(f"{case.get('classname')}::{case.get('name')}", entries, failure is None, message)


def _print_entry(entry: str, before: list[Outcome], after: list[Outcome]) -> bool:
    old = [outcome for outcome in before if entry in outcome.entries]
    new = [outcome for outcome in after if entry in outcome.entries]
    failed = [outcome for outcome in old if not outcome.passed]
    passed = sum(outcome.passed for outcome in new)
    good = bool(new) and passed == len(new) and (bool(failed) or entry in KEPT)
    print(f"{'ok ' if good else 'BAD'} {entry}: {FAULTS[entry]}")
    print(f"      before: {len(failed)} of {len(old)} failed; now: {passed} of {len(new)} passed")
    if failed:
        print(f"      e.g. {failed[0].test}: {failed[0].message[:160]}")
    for outcome in new:
        if not outcome.passed:
            print(f"      now fails: {outcome.test}: {outcome.message[:160]}")
    return good


if __name__ == "__main__":
    sys.exit(main())
