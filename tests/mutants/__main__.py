"""`python -m tests.mutants`: plant every mistake of the catalogue and run every check.

The exit code is 1 if a mistake is not caught by the check that its entry names, or if a check fails on a model without
a mistake.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

if TYPE_CHECKING:
    from forgather_core.definitions.check import Check


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.mutants", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument(
        "--only",
        metavar="TEXT",
        help="run only mutants with this text in name, group or definition; comma-separated",
    )
    parser.add_argument("--check", metavar="NAMES", default="", help="run only these checks, separated by commas")
    selection = parser.add_mutually_exclusive_group()
    selection.add_argument("--all", action="store_true", help="run deferred checks also on mutants already caught")
    selection.add_argument("--named", action="store_true", help="run only the check that the mutant's entry names")
    parser.add_argument("--jobs", type=int, default=2, metavar="N", help="parallel processes (default: 2)")
    parser.add_argument("--json", action="store_true", help="print the results as JSON")
    parser.add_argument("--markdown", action="store_true", help="print the table as Markdown")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="forgather-modules-") as modules:
        # Set before torch and transformers are imported, which read it. Jobs share the processor.
        os.environ |= {"HF_MODULES_CACHE": modules, "TOKENIZERS_PARALLELISM": "false", "OMP_NUM_THREADS": "1"}
        return _run(arguments)


def _run(arguments: argparse.Namespace) -> int:
    import transformers

    from .apply import REFERENCE_CHECKS, Selection, checks, run
    from .catalogue import GROUPS

    transformers.utils.logging.set_verbosity_error()
    chosen = [
        mutant
        for group, mutants in GROUPS.items()
        for mutant in mutants
        if any(text in f"{mutant.name} {group} {mutant.definition}" for text in (arguments.only or "").split(","))
    ]
    todo = checks([name for name in arguments.check.split(",") if name])
    false_alarms: dict[str, dict[str, str]] = {}
    rows = []
    selection: Selection = "all" if arguments.all else "named" if arguments.named else "deferred"
    for mutant, outcome in run(chosen, todo, jobs=arguments.jobs, selection=selection):
        if mutant is None:
            if outcome.failed:
                false_alarms[outcome.name] = outcome.failed
        else:
            result = {"caught_by": list(outcome.failed), "messages": outcome.failed, "seconds": outcome.seconds}
            rows.append(asdict(mutant) | result)
        _log(outcome.name, list(outcome.failed), sum(outcome.seconds.values()))
    order = {mutant.name: number for number, mutant in enumerate(chosen)}
    rows.sort(key=lambda row: order[row["name"]])
    caught = sum(bool(row["caught_by"]) for row in rows)
    without = sum(bool(row["messages"].keys() - REFERENCE_CHECKS) for row in rows)
    summary = f"caught {caught} of {len(rows)}; {without} without a reference"
    if arguments.json:
        print(
            json.dumps(
                {"mutants": rows, "false_alarms": false_alarms, "caught": caught, "without_reference": without},
                indent=2,
            )
        )
    elif arguments.markdown:
        print(f"{_markdown(rows)}\n\n{summary}")
    else:
        _print_tables(rows, false_alarms, summary)
    for name, check in _missed(rows, todo).items():
        print(f"{name}: not caught by {check}, the check that its entry names", file=sys.stderr)
    return 0 if not false_alarms and not _missed(rows, todo) else 1


def _missed(rows: list[dict[str, Any]], todo: Sequence[Check]) -> dict[str, str]:
    """Return the mutants that the check of their entry did not catch, with that check, if it was requested."""
    names = {check.name for check in todo}
    return {row["name"]: row["check"] for row in rows if row["check"] in names - set(row["caught_by"])}


def _log(name: str, failed: list[str], seconds: float) -> None:
    print(f"{name}: {', '.join(failed) or 'none'} ({seconds:.1f} s)", file=sys.stderr, flush=True)


def _print_tables(rows: list[dict[str, object]], false_alarms: dict[str, dict[str, str]], summary: str) -> None:
    console = Console()
    table = Table("mutant", "definition", "caught by")
    for row in rows:
        by = row["caught_by"]
        assert isinstance(by, list)
        table.add_row(str(row["name"]), str(row["definition"]), ", ".join(by) or "[bold red]MISSED[/]")
    console.print(table)
    counts = Table("check", "catches", "catches alone")
    catches, alone = _counts(rows)
    for name, count in catches.most_common():
        counts.add_row(name, str(count), str(alone[name]))
    console.print(counts)
    missed = [str(row["name"]) for row in rows if not row["caught_by"]]
    console.print(summary)
    if missed:
        console.print(f"[bold red]missed[/]: {', '.join(missed)}")
    for name, failed in false_alarms.items():
        for check, message in failed.items():
            console.print(f"[bold red]false alarm[/] of {check} on {escape(name)}: {escape(message)}")


def _counts(rows: list[dict[str, object]]) -> tuple[Counter[str], Counter[str]]:
    """Return the number of mutants that each check catches, and the number that no other check catches."""
    catches, alone = Counter[str](), Counter[str]()
    for row in rows:
        by = row["caught_by"]
        assert isinstance(by, list)
        catches.update(by)
        alone.update(by if len(by) == 1 else ())
    return catches, alone


def _markdown(rows: list[dict[str, object]]) -> str:
    lines = ["| mutant | definition | mistake | caught by |", "|---|---|---|---|"]
    for row in rows:
        by = row["caught_by"]
        assert isinstance(by, list)
        mistake = str(row["mistake"]).replace("|", "\\|")
        lines.append(f"| {row['name']} | {row['definition']} | {mistake} | {', '.join(by) or '**missed**'} |")
    catches, alone = _counts(rows)
    lines += ["", "| check | catches | catches alone |", "|---|---|---|"]
    lines += [f"| {name} | {count} | {alone[name]} |" for name, count in catches.most_common()]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
