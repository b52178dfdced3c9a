"""What the benchmarks share: settings of a model, cases timed in turns, one table, the machine in a line."""

from __future__ import annotations

import argparse
import platform
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers

from forgather_core.configurations import resolve
from forgather_core.registry import registry
from forgather_core.settings import Settings, settle

Case = Callable[[], object]
Clock = Callable[[], float]


def parser(text: str | None, runs: int) -> argparse.ArgumentParser:
    """A parser with the one option that every benchmark has."""
    made = argparse.ArgumentParser(description=text, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument(
        "--runs", type=int, default=runs, help="runs of each case; the best counts (default: %(default)s)"
    )
    return made


def machine() -> str:
    """Versions and processor, in a line."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    name = next((line.partition(": ")[2] for line in lines if line.startswith("model name")), platform.machine())
    return (
        f"torch {torch.__version__}, transformers {transformers.__version__}, Python {platform.python_version()}, "
        f"{torch.get_num_threads()} threads, {name}"
    )


def be_quiet() -> None:
    """No warnings and no bars of transformers."""
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()


def settings(directory: Path, **options: Any) -> Settings:
    """Of llama/4M with these options, in this directory."""
    return settle(resolve("llama/4M", registry(), Path()), options | {"output_dir": directory})


def in_turns(
    cases: dict[str, Case], runs: int, clock: Clock = time.perf_counter, *, warm: bool = True
) -> dict[str, float]:
    """The best seconds of each case. In turns, so that a busy moment hits all of them.

    Args:
        cases: By name.
        runs: How often each.
        clock: What is measured.
        warm: Whether a turn before the others warms caches, and does not count.
    """
    best = dict.fromkeys(cases, float("inf"))
    for number in range(runs + warm):
        for name, case in cases.items():
            began = clock()
            made = case()
            spent = clock() - began
            del made  # to free it is not the case's
            if number >= warm:
                best[name] = min(best[name], spent)
    return best


def table(title: str, best: dict[str, float], peer: str) -> None:
    """Print the time of each case, and how many times that of the peer it is."""
    print(f"\n{title:62}{'ms, best':>10}{'ratio':>8}")
    for name, seconds in best.items():
        print(f"{name:62}{seconds * 1000:10.2f}{seconds / best[peer]:8.2f}", flush=True)
