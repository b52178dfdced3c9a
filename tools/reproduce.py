"""Show the defects of transformers' models in `upstream_defects.py` without Forgather.

    python tools/reproduce.py [TYPE ...] [--write DIR]

Each program runs with each of its types, in a process of its own that imports transformers only. `--write` only writes
the small configurations that the programs read. Exit code 1 if a defect does not show.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Iterable
from pathlib import Path

from scoreboard import model_types, write_directory
from upstream_defects import DEFECTS, SETUP, Defect

from forgather_core.checks.shared.model_under_test import ModelUnderTest
from forgather_core.errors import first_line
from forgather_core.runtime.quiet import quiet_transformers

_SECONDS = 300
CONFIGURATIONS = "scoreboard"


def write_small(kinds: Iterable[str], folder: Path) -> None:
    """Write the configuration of the small copy of each type to a directory of its name."""
    for kind in kinds:
        with tempfile.TemporaryDirectory() as work, warnings.catch_warnings(action="ignore"), quiet_transformers():
            original, place = Path(work) / "model", Path(work) / "copy"
            original.mkdir()
            place.mkdir()
            try:
                write_directory(kind, original)
                ModelUnderTest(original, place).config().save_pretrained(folder / kind)
            except Exception as error:  # the default configuration of a class may be invalid
                print(f"{kind}: no configuration: {first_line(error)}", file=sys.stderr)


def program_of(defect: Defect, kind: str) -> str:
    """Return the program that shows a defect in a type."""
    return f"{SETUP.replace('KIND', kind)}\n\n{defect.program}\n"


def shows(defect: Defect, kind: str, folder: Path) -> str:
    """Run the program of a defect; return "True" if it shows, or what it printed instead."""
    command = [sys.executable, "-W", "ignore", "-c", program_of(defect, kind)]
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=_SECONDS, check=False)
    except subprocess.TimeoutExpired:
        return f"more than {_SECONDS} s"
    lines = (done.stdout if done.returncode == 0 else done.stderr).strip().splitlines()
    return lines[-1] if lines else f"exit code {done.returncode}"


def main() -> int:
    """Run the programs, print what they show, and return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("types", nargs="*", help="model types (default: all)")
    parser.add_argument("--write", type=Path, metavar="DIR", help="only write the small configurations to DIR")
    arguments = parser.parse_args()
    if arguments.write:
        write_small(arguments.types or model_types(), arguments.write)
        return 0
    pairs = [(one, kind) for one in DEFECTS for kind in one.types if not arguments.types or kind in arguments.types]
    absent = 0
    with tempfile.TemporaryDirectory() as work:
        folder = Path(work)
        write_small(sorted({kind for _, kind in pairs}), folder / CONFIGURATIONS)
        for defect, kind in pairs:
            found = shows(defect, kind, folder)
            absent += found != "True"
            print(f"{kind}: {defect.name}: {found}", flush=True)
    print(f"{len(pairs)} programs, {absent} do not show the defect")
    return int(absent > 0)


if __name__ == "__main__":
    sys.exit(main())
