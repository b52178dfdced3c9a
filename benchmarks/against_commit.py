"""Compare the speed of this tree and of an older commit: start-up, construct, checkpoint, train, generate.

python benchmarks/against_commit.py COMMIT [--runs 7] [--only WORD]

Checks out the older commit in a temporary worktree. Each tree has a worker process. The runs of the two workers are
interleaved, so that machine load affects both. Only documented interfaces are used. Exit code 1 if a median is more
than 5 % slower.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
BOUND = 1.05


def main() -> int:
    """Print the table and return the exit code: 1 if a ratio of medians exceeds `BOUND`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("commit", help="the older commit")
    parser.add_argument("--runs", type=int, default=7, help="runs of each case and tree (default: %(default)s)")
    parser.add_argument("--only", default="", help="run the cases with this word in their names")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as work:
        old = Path(work) / "tree"
        subprocess.run(["git", "worktree", "add", "--quiet", "--detach", old, arguments.commit], cwd=ROOT, check=True)
        try:
            return _compare(Path(work), {"before": old, "now": ROOT}, arguments.runs, arguments.only)
        finally:
            subprocess.run(["git", "worktree", "remove", "--force", old], cwd=ROOT, check=True)


def _compare(work: Path, trees: dict[str, Path], runs: int, only: str) -> int:
    workers = {label: _start(work / label, tree) for label, tree in trees.items()}
    names = [name for name in _request(workers["now"], "cases").split(";") if only in name]
    print(f"{'median of ' + str(runs) + ' interleaved runs, ms':44}{'before':>10}{'now':>10}{'ratio':>8}")
    worst = 0.0
    for name in names:
        times: dict[str, list[float]] = {label: [] for label in workers}
        for number in range(runs + 1):  # the first warms caches
            for label in workers if number % 2 else reversed(workers):
                elapsed = float(_request(workers[label], name))
                if number:
                    times[label].append(elapsed)
        before, now = (1000 * statistics.median(times[label]) for label in ("before", "now"))
        worst = max(worst, now / before)
        print(f"{name:44}{before:10.2f}{now:10.2f}{now / before:8.3f}", flush=True)
    for worker in workers.values():
        worker.stdin.close()
        worker.wait()
    return int(worst > BOUND)


def _start(workdir: Path, tree: Path) -> subprocess.Popen[str]:
    workdir.mkdir()
    path = os.pathsep.join((str(tree), str(tree / "plugins")))
    env = os.environ | {"PYTHONPATH": path, "HF_HUB_OFFLINE": "1", "HF_HOME": str(workdir / "hf"), "NO_COLOR": "1"}
    env |= {"PYTHONPYCACHEPREFIX": str(workdir / "compiled"), "TRANSFORMERS_VERBOSITY": "error"}
    env.pop("PYTHONDONTWRITEBYTECODE", None)  # installed programs are compiled
    command = [sys.executable, __file__, "--worker"]
    return subprocess.Popen(command, cwd=workdir, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def _request(worker: subprocess.Popen[str], name: str) -> str:
    """Return the answer of a worker: the duration of a case, or the names of all cases for `cases`."""
    worker.stdin.write(name + "\n")
    worker.stdin.flush()
    answer = worker.stdout.readline().strip()
    if not answer:
        raise SystemExit(f"{name}: the process that runs {worker.args} ended: see its traceback above")
    return answer


def work() -> None:
    """Read the names of cases from standard input, run each case, and print its duration in seconds."""
    cases, answers = _cases(), sys.stdout
    for line in sys.stdin:
        name = line.strip()
        with redirect_stdout(StringIO()), redirect_stderr(StringIO()):
            answer = ";".join(cases) if name == "cases" else str(cases[name]())
        print(answer, file=answers, flush=True)


def _cases() -> dict[str, Callable[[], float]]:
    import torch
    import transformers
    from _common import children_cpu_seconds

    from forgather.ml.sharded_checkpoint import load_checkpoint, save_checkpoint
    from forgather_cli.main import main as program

    transformers.utils.logging.disable_progress_bar()

    def command(*arguments: str) -> None:
        sys.argv = ["forgather", *arguments]
        printed = StringIO()
        try:
            with redirect_stdout(printed), redirect_stderr(printed):
                program()
        except SystemExit as ended:
            if ended.code:
                raise RuntimeError(f"{arguments}: {printed.getvalue()}") from ended

    def timed(function: Callable[[], Any]) -> float:
        start = time.perf_counter()
        function()
        return time.perf_counter() - start

    def started(*arguments: str) -> float:
        start = children_cpu_seconds()
        subprocess.run([sys.executable, "-m", "forgather_cli.main", *arguments], check=True, stdout=subprocess.DEVNULL)
        return children_cpu_seconds() - start

    build = ("--device", "cpu", "--save-checkpoint", "--safetensors")
    command("-t", "llama/4M", "model", *build, "--output-dir", "small", "construct")
    command("-t", "llama/117M", "model", "--dtype", "bf16", *build, "--output-dir", "large", "construct")
    shutil.copytree("large", "large-bin", ignore=shutil.ignore_patterns("*.safetensors*"))
    auto = transformers.AutoModelForCausalLM
    small = auto.from_pretrained("small", trust_remote_code=True)
    large = auto.from_pretrained("large", trust_remote_code=True)
    config = transformers.AutoConfig.from_pretrained("large", trust_remote_code=True)
    save_checkpoint("large-bin", large)
    ids = torch.randint(5, 1000, (4, 128), generator=torch.Generator().manual_seed(1))
    optimizer = torch.optim.SGD(small.parameters(), lr=1e-3)

    # One thread: on a busy machine, the time of several threads includes the time that they wait for each other.
    def on_one_thread(function: Callable[[], Any]) -> float:
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        elapsed = timed(function)
        torch.set_num_threads(threads)
        return elapsed

    def train() -> None:
        small.train()
        for _ in range(8):
            small(ids, labels=ids).loss.backward()
            optimizer.step()
            optimizer.zero_grad()

    def generate() -> None:
        small.eval().generate(ids[:, :32], max_new_tokens=96, min_new_tokens=96, do_sample=False)

    construct = ("-t", "llama/4M", "model", "-r", "--output-dir", "again")
    return {
        "start-up: --help (CPU)": lambda: started("--help"),
        "start-up: -t llama/4M model --help (CPU)": lambda: started("-t", "llama/4M", "model", "--help"),
        "start-up: -t llama/4M model show (CPU)": lambda: started("-t", "llama/4M", "model", "show"),
        "construct -r, meta": lambda: timed(lambda: command(*construct, "construct")),
        "construct -r, cpu": lambda: timed(lambda: command(*construct, "--device", "cpu", "construct")),
        "initial weights, 117M": lambda: timed(lambda: auto.from_config(config, trust_remote_code=True)),
        "save, 234 MB, safetensors": lambda: timed(lambda: save_checkpoint("large", large, safetensors=True)),
        "save, 234 MB, bin": lambda: timed(lambda: save_checkpoint("large-bin", large)),
        "load, 234 MB, safetensors": lambda: timed(lambda: load_checkpoint("large", large)),
        "load, 234 MB, bin": lambda: timed(lambda: load_checkpoint("large-bin", large)),
        "from_pretrained, 4M": lambda: timed(lambda: auto.from_pretrained("small", trust_remote_code=True)),
        "train, 8 steps, 4M": lambda: on_one_thread(train),
        "generate, 96 tokens, 4M": lambda: on_one_thread(generate),
    }


if __name__ == "__main__":
    if sys.argv[1:] == ["--worker"]:
        work()
    else:
        sys.exit(main())
