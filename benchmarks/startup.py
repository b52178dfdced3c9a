"""Measure the CPU time of help pages, as a ratio to a minimal Typer program in the same run.

python benchmarks/startup.py [RUNS]

The bound is for Typer 0.29 or later, which builds a pydantic adapter for each parameter; Forgather's pages need none.
With older releases, the minimal program takes 0.4 of that time, and Forgather's pages take as long as with 0.29.
"""

from __future__ import annotations

import os
import platform
import subprocess
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path

from _common import children_cpu_seconds, processor

HELLO = """
import typer

app = typer.Typer()


@app.command()
def hello(name: str = "world") -> None:
    print(f"hello {name}")


app()
"""
PAGES = {
    "forgather --help": ["--help"],
    "forgather -t llama/4M model --help": ["-t", "llama/4M", "model", "--help"],
    "forgather -t llama/4M model test --help": ["-t", "llama/4M", "model", "test", "--help"],
}
BOUND = 0.75


def main() -> int:
    """Print the table and return the exit code: 1 if a page takes more than `BOUND` x the minimal program."""
    runs = int(sys.argv[1]) if len(sys.argv) > 1 else 20
    with tempfile.TemporaryDirectory() as folder:
        hello = Path(folder) / "hello.py"
        hello.write_text(HELLO, encoding="utf-8")
        commands = {"bare Typer hello-world": [str(hello)]}
        commands |= {name: ["-m", "forgather_cli.main", *arguments] for name, arguments in PAGES.items()}
        # As in an installation, all modules are compiled, including those of the checkout.
        env = os.environ | {"NO_COLOR": "1", "PYTHONPYCACHEPREFIX": folder}
        env.pop("PYTHONDONTWRITEBYTECODE", None)
        times: dict[str, list[float]] = {name: [] for name in commands}
        for number in range(runs + 1):  # interleaved, so that load affects all; the first run warms caches
            for name, arguments in commands.items():
                before = children_cpu_seconds()
                subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL, env=env)
                if number:
                    times[name].append(children_cpu_seconds() - before)
    base = min(times["bare Typer hello-world"])
    print(f"{processor()}, {os.cpu_count()} cores, Python {platform.python_version()}, Typer {version('typer')}")
    print(f"{'':42}{'CPU ms, best':>14}{'ratio':>8}   ({runs} runs, bound {BOUND})")
    worst = 0.0
    for name, values in times.items():
        ratio = min(values) / base
        if name in PAGES:
            worst = max(worst, ratio)
        print(f"{name:42}{min(values) * 1000:14.1f}{ratio:8.2f}")
    return int(worst > BOUND)


if __name__ == "__main__":
    sys.exit(main())
