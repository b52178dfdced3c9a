"""CPU time of help pages, as a ratio to that of a bare Typer hello-world in the same run.

python benchmarks/startup.py [RUNS]
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

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
BOUND = 1.0


def main() -> int:
    """Print the table; exit code 1 where a page costs more than the bare program."""
    runs = int(sys.argv[1]) if len(sys.argv) > 1 else 20
    with tempfile.TemporaryDirectory() as folder:
        hello = Path(folder) / "hello.py"
        hello.write_text(HELLO, encoding="utf-8")
        commands = {"bare Typer hello-world": [str(hello)]}
        commands |= {name: ["-m", "forgather_cli.main", *arguments] for name, arguments in PAGES.items()}
        times: dict[str, list[float]] = {name: [] for name in commands}
        for number in range(runs + 1):  # in turns, so that a busy moment hits all of them; the first warms caches
            for name, arguments in commands.items():
                spent = _cpu_seconds([sys.executable, *arguments])
                if number:
                    times[name].append(spent)
    base = min(times["bare Typer hello-world"])
    print(f"{'':42}{'CPU ms, best':>14}{'ratio':>8}   ({runs} runs, Python {sys.version.split()[0]})")
    worst = 0.0
    for name, values in times.items():
        ratio = min(values) / base
        worst = max(worst, ratio)
        print(f"{name:42}{min(values) * 1000:14.1f}{ratio:8.2f}")
    return int(worst > BOUND)


def _cpu_seconds(command: list[str]) -> float:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=os.environ | {"NO_COLOR": "1"})
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime


if __name__ == "__main__":
    sys.exit(main())
