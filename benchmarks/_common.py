"""Shared functions of the benchmarks: settings, models, timing, tables, description of the machine."""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import transformers

if TYPE_CHECKING:
    from forgather_core.settings.resolved_model import ResolvedModel

Case = Callable[[], object]
Clock = Callable[[], float]


def parser(text: str | None, runs: int) -> argparse.ArgumentParser:
    """Return a parser with the option `--runs`."""
    parser = argparse.ArgumentParser(description=text, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--runs", type=int, default=runs, help="runs of each case; the best one is reported (default: %(default)s)"
    )
    return parser


def machine() -> str:
    """Return a line with the versions of the libraries and the processor."""
    return (
        f"torch {torch.__version__}, transformers {transformers.__version__}, Python {platform.python_version()}, "
        f"{torch.get_num_threads()} threads, {processor()}"
    )


def processor() -> str:
    """Return the name of the processor from Linux, or from Python on other systems."""
    file = Path("/proc/cpuinfo")
    lines = file.read_text(encoding="utf-8").splitlines() if file.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def children_cpu_seconds() -> float:
    """Return the CPU seconds of all child processes that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def memory_status(name: str) -> int:
    """Return bytes of this process from Linux: VmRSS (resident), VmHWM (peak resident) or RssAnon (anonymous)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line.split()[1] for line in lines if line.startswith(name)))


def reset_peak_memory() -> None:
    """Reset VmHWM."""
    Path("/proc/self/clear_refs").write_text("5")


def silence_transformers() -> None:
    """Silence transformers' warnings and progress bars."""
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()


def settings(directory: Path, template: str = "llama/4M", **options: Any) -> ResolvedModel:
    """Return the resolved model of a preset with the given options and output directory."""
    # Not at the top: `against_commit.py` imports this file with older versions of Forgather.
    from forgather_core.definitions.registry import registry
    from forgather_core.settings.layers import find_configuration
    from forgather_core.settings.resolve import resolve

    return resolve(find_configuration(template, registry(), Path()), options | {"output_dir": directory})


def pair(directory: Path, dtype: torch.dtype, **kwargs: Any) -> dict[str, Any]:
    """Return two models with equal weights: `exported` from its directory, and `native`, transformers' Llama.

    Args:
        directory: A model directory of llama with saved weights.
        dtype: Dtype of both models.
        kwargs: Further arguments for both models, such as an attention implementation.
    """
    exported = transformers.AutoModelForCausalLM.from_pretrained(
        directory, trust_remote_code=True, dtype=dtype, **kwargs
    )
    config = transformers.LlamaConfig(**{name: getattr(exported.config, name) for name in _SAME})
    native = transformers.LlamaForCausalLM._from_config(config, dtype=dtype, **kwargs)
    native.load_state_dict(exported.state_dict())
    return {"native": native, "exported": exported}


_SAME = (
    "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads",
    "head_dim", "rms_norm_eps", "max_position_embeddings", "tie_word_embeddings", "rope_parameters", "bos_token_id",
    "eos_token_id", "pad_token_id",
)  # fmt: skip


def in_process(script: str, task: object) -> Any:
    """Run `script --run TASK` in a new process and return the last line of its output; both are JSON.

    The process returns freed memory to the system at once, so that its resident memory is the memory in use.
    """
    environment = os.environ | {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
    environment |= {"MALLOC_MMAP_MAX_": "1000000", "TRANSFORMERS_VERBOSITY": "error"}
    command = [sys.executable, script, "--run", json.dumps(task)]
    process = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if process.returncode:
        raise SystemExit(f"{task}: {process.stderr}")
    return json.loads(process.stdout.splitlines()[-1])


def best_times(
    cases: dict[str, Case], runs: int, clock: Clock = time.perf_counter, *, warm: bool = True
) -> dict[str, float]:
    """Return the best time of each case in seconds. Runs are interleaved, so that machine load affects all cases.

    Args:
        cases: Cases by name.
        runs: Number of runs of each case.
        clock: Clock to measure with.
        warm: Run each case once without measuring it first, to warm caches.
    """
    best = dict.fromkeys(cases, float("inf"))
    for number in range(runs + warm):
        for name, case in cases.items():
            start = clock()
            result = case()
            elapsed = clock() - start
            del result  # the time to free it is not measured
            if number >= warm:
                best[name] = min(best[name], elapsed)
    return best


def check_bound(name: str, ratio: float, bound: float) -> bool:
    """Print a ratio with its bound, and return whether it is within the bound."""
    passed = ratio <= bound
    print(f"{'PASS' if passed else 'FAIL'} {name}: {ratio:.3f} (bound {bound})", flush=True)
    return passed


def table(title: str, best: dict[str, float], peer: str, unit: str = "ms, best") -> None:
    """Print the time of each case in milliseconds, and its ratio to the time of the case `peer`.

    Args:
        title: Title of the table.
        best: Time of each case in seconds.
        peer: The case to compare with.
        unit: Title of the column of times.
    """
    print(f"\n{title:62}{unit:>10}{'ratio':>8}")
    for name, seconds in best.items():
        print(f"{name:62}{seconds * 1000:10.2f}{seconds / best[peer]:8.2f}", flush=True)
