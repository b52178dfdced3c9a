"""Benchmark saving and loading against other libraries, as ratios within one run, and the peak memory beyond the model.

python benchmarks/checkpoint.py [--layers 16] [--runs 7] [--directory DIR] [--only saves]

The bounds of times apply to medians. `OPENSSL_ia32cap=~0x200000200000000:~0x20000000` in the environment hides the SHA
instructions from hashlib; the second line of output shows its throughput. Some peers do less than Forgather: none
computes checksums, and `read the bytes` and `mmap of the file` load no model. A save includes fsync of the files and
the directory, also for peers that do not call it. A load includes a read of every page of a mapped file. The page
cache is warm. The exit code is 1 if a bound is exceeded.
"""

from __future__ import annotations

import argparse
import hashlib
import mmap
import os
import resource
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path

import safetensors
import torch
from _checkpoint_memory import memory, model_of
from _common import check_bound, machine, silence_transformers
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, LlamaForCausalLM

from forgather_core.checkpoint import load_checkpoint, save_checkpoint

SAVE, LOAD, MAP = "save", "load into a module", "load without a copy"
BOUNDS = {
    (SAVE, "forgather, safetensors"): ("best of the peers", 1.15),
    (SAVE, "forgather, .bin"): ("best of the peers", 1.15),
    (LOAD, "forgather, safetensors"): ("best of the peers", 1.1),
    (LOAD, "forgather, foreign safetensors"): ("load_file + load_state_dict", 1.3),
    (LOAD, "forgather, foreign .bin"): ("torch.load(mmap) + load_state_dict", 1.3),
    (MAP, "forgather, assign=True"): ("mmap of the file", 1.1),
}
_PAUSE = 0.3  # seconds
MEMORY_BOUND = 0.02  # fraction of the model's size

Case = Callable[[], object]


def state_of(model: LlamaForCausalLM) -> dict[str, torch.Tensor]:
    """Return the weights of a model, tied ones once."""
    return {name: tensor for name, tensor in model.state_dict().items() if name != "lm_head.weight"}


def sync(directory: Path) -> None:
    """Call fsync on the files that a peer has written, and on their directory."""
    for path in (*directory.iterdir(), directory):
        descriptor = os.open(path, os.O_RDONLY)
        os.fsync(descriptor)
        os.close(descriptor)


def saves(model: LlamaForCausalLM, workdir: Path) -> dict[str, Case]:
    """Return a case per library that saves the model over its previous save."""
    state = state_of(model)

    def library() -> None:
        save_file(state, workdir / "library" / "model.safetensors", metadata={"format": "pt"})
        sync(workdir / "library")

    def pretrained() -> None:
        model.save_pretrained(workdir / "pretrained")
        sync(workdir / "pretrained")

    def pickled() -> None:
        torch.save(state, workdir / "torch" / "pytorch_model.bin")
        sync(workdir / "torch")

    for name in ("library", "pretrained", "torch"):
        (workdir / name).mkdir()
    return {
        "safetensors.save_file + fsync": library,
        "save_pretrained + fsync": pretrained,
        "torch.save + fsync": pickled,
        "forgather, safetensors": lambda: save_checkpoint(workdir / "forgather", model, safetensors=True),
        "forgather, .bin": lambda: save_checkpoint(workdir / "forgather-bin", model),
    }


def loads(model: LlamaForCausalLM, workdir: Path) -> dict[str, Case]:
    """Return a case per library that loads the same values, into `model` if the library loads modules."""
    file = workdir / "library" / "model.safetensors"
    into = bytearray(file.stat().st_size)

    def bytes_only() -> None:
        with file.open("rb", buffering=0) as stream:
            view = memoryview(into)
            while view:
                view = view[stream.readinto(view) :]

    return {
        "read the bytes": bytes_only,
        "load_file + load_state_dict": lambda: model.load_state_dict(load_file(file), strict=False),
        "torch.load(mmap) + load_state_dict": lambda: model.load_state_dict(
            torch.load(workdir / "torch" / "pytorch_model.bin", mmap=True), strict=False
        ),
        "forgather, safetensors": lambda: load_checkpoint(workdir / "forgather", model),
        "forgather, .bin": lambda: load_checkpoint(workdir / "forgather-bin", model),
        "forgather, foreign safetensors": lambda: load_checkpoint(file, model),
        "forgather, foreign .bin": lambda: load_checkpoint(workdir / "torch" / "pytorch_model.bin", model),
    }


def maps(model: LlamaForCausalLM, workdir: Path) -> dict[str, Case]:
    """Return a case per library that maps the values of the same file and touches each page once."""
    save_checkpoint(workdir, model, safetensors=True, max_shard_size="1TB")
    (file,) = workdir.glob("*.safetensors")
    sizes = [parameter.numel() for parameter in model.parameters()]

    def mapped() -> None:
        with file.open("rb") as stream:
            pages = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_COPY)
            flat = torch.frombuffer(pages, dtype=torch.bfloat16, count=sum(sizes), offset=len(pages) - 2 * sum(sizes))
        touch(flat.split(sizes))

    def forgather() -> None:
        load_checkpoint(workdir, model, assign=True)
        touch(model.parameters())

    def library() -> None:
        model.load_state_dict(load_file(file), strict=False, assign=True)
        model.tie_weights()
        touch(model.parameters())

    return {
        "mmap of the file": mapped,
        "load_file + assign": library,
        "from_pretrained": lambda: touch(AutoModelForCausalLM.from_pretrained(workdir).parameters()),
        "forgather, assign=True": forgather,
    }


def touch(tensors: Iterable[torch.Tensor]) -> None:
    """Read one element in every page of every tensor."""
    for parameter in tensors:
        parameter.detach().reshape(-1)[:: mmap.PAGESIZE // parameter.element_size()].view(torch.int16).sum()


def table(title: str, cases: dict[str, Case], size: int, runs: int, peers: tuple[str, ...]) -> dict[str, float]:
    """Time all cases in interleaved runs, print the times, and return the medians.

    Args:
        title: Title of the table.
        cases: Functions to time, by name.
        size: Size of the model in bytes.
        runs: Number of runs.
        peers: Cases to compare with; the fastest has ratio 1.00.
    """
    times: dict[str, list[float]] = {name: [] for name in cases}
    for number in range(runs + 1):  # the first run warms caches
        for name, case in cases.items():
            os.sync()
            time.sleep(_PAUSE)  # so that work left to the system by one case does not slow down the next
            start = time.perf_counter()
            case()
            if number:
                times[name].append(time.perf_counter() - start)
    medians = {name: statistics.median(values) for name, values in times.items()}
    base = medians["best of the peers"] = min(medians[name] for name in peers)
    print(f"\n{title:38}{'s, best':>9}{'s, median':>11}{'GB/s':>7}{'ratio':>7}")
    for name, values in times.items():
        best, median = min(values), medians[name]
        print(f"{name:38}{best:9.3f}{median:11.3f}{size / median / 1e9:7.2f}{median / base:7.2f}", flush=True)
    return medians


def main() -> int:
    """Print the tables; return exit code 1 if a bound is exceeded."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=16)
    parser.add_argument("--runs", type=int, default=7)
    parser.add_argument("--only", choices=("saves",), help="run only the saves")
    parser.add_argument("--directory", type=Path, default=None)
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    silence_transformers()
    model = model_of(arguments.layers)
    size = sum(p.numel() * p.element_size() for p in model.parameters())
    print(f"{size / 1e6:.0f} MB in bfloat16, {arguments.runs} runs, safetensors {safetensors.__version__}, {machine()}")
    print(f"SHA-256 by hashlib: {sha256_speed():.2f} GB/s")
    medians = {}
    worst = 0.0
    with tempfile.TemporaryDirectory(dir=arguments.directory) as name:
        workdir = Path(name)
        peers = ("safetensors.save_file + fsync", "save_pretrained + fsync", "torch.save + fsync")
        medians[SAVE] = table(SAVE, saves(model, workdir), size, arguments.runs, peers)
        if not arguments.only:
            peers = ("read the bytes", "load_file + load_state_dict", "torch.load(mmap) + load_state_dict")
            medians[LOAD] = table(LOAD, loads(model, workdir), size, arguments.runs, peers)
            save_checkpoint(workdir / "wide", model.float(), safetensors=True)
            del model
            worst = memory(workdir, arguments.layers, size)
    if not arguments.only:
        with tempfile.TemporaryDirectory(dir=arguments.directory) as name:
            # With the sizes of Llama 3 8B: mapping is fast, and costs that do not grow with the size must not dominate.
            model = model_of(arguments.layers, 4096, 14_336)
            size = sum(p.numel() * p.element_size() for p in model.parameters())
            cases = maps(model, Path(name))
            medians[MAP] = table(f"{MAP}, {size / 1e6:.0f} MB", cases, size, 3 * arguments.runs, ("mmap of the file",))
    print()
    passed = [
        check_bound(f"{group}: {case} / {peer}", medians[group][case] / medians[group][peer], bound)
        for (group, case), (peer, bound) in BOUNDS.items()
        if group in medians
    ]
    if not arguments.only:
        passed.append(check_bound("extra peak memory / model", worst, MEMORY_BOUND))
    return int(not all(passed))


def sha256_speed() -> float:
    """Return the speed of hashlib's SHA-256 in GB/s."""
    data = bytes(2**26)
    start = time.perf_counter()
    hashlib.sha256(data)
    return len(data) / (time.perf_counter() - start) / 1e9


if __name__ == "__main__":
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    sys.exit(main())
