"""Saving and loading against their peers, as ratios within one run; peak memory beside the model's own.

python benchmarks/checkpoint.py [--layers 16] [--runs 7] [--directory DIR] [--only saves]

The medians count. `OPENSSL_ia32cap=~0x200000200000000:~0x20000000` in the environment takes SHA instructions away from
hashlib; the second line shows its throughput. Every peer ends where ours does: a save is on the disk (fsync of files
and directory, where the peer leaves that to the system); a load has the values in memory (a map is touched page by
page). The page cache is warm. Exit code 1 where a bound is broken.
"""

from __future__ import annotations

import argparse
import hashlib
import mmap
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path

import safetensors
import torch
from _common import bar, be_quiet, machine, status
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

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
MEMORY_BOUND = 0.02  # of the model

Case = Callable[[], object]


def model_of(layers: int, hidden: int = 2048, intermediate: int = 8192) -> LlamaForCausalLM:
    """A bfloat16 Llama, of the sizes of Llama 3.2 1B unless told others, its weights random numbers that repeat."""
    config = LlamaConfig(
        vocab_size=128_256, hidden_size=hidden, intermediate_size=intermediate, num_hidden_layers=layers,
        num_attention_heads=32, num_key_value_heads=8, tie_word_embeddings=True, dtype="bfloat16",
    )  # fmt: skip
    with torch.device("meta"):
        model = LlamaForCausalLM(config)
    model = model.to(torch.bfloat16).to_empty(device="cpu")
    model.tie_weights()
    pattern = torch.randn(10_007, dtype=torch.bfloat16)  # drawing billions of numbers takes minutes
    for parameter in model.parameters():
        flat = parameter.data.view(-1)
        whole = len(flat) // len(pattern) * len(pattern)
        flat[:whole].view(-1, len(pattern)).copy_(pattern)
        flat[whole:] = pattern[: len(flat) - whole]
    model.model.rotary_emb = type(model.model.rotary_emb)(config)
    return model


def state_of(model: LlamaForCausalLM) -> dict[str, torch.Tensor]:
    """Its weights, tied ones once."""
    return {name: tensor for name, tensor in model.state_dict().items() if name != "lm_head.weight"}


def sync(directory: Path) -> None:
    """Make what a peer has written durable."""
    for path in (*directory.iterdir(), directory):
        descriptor = os.open(path, os.O_RDONLY)
        os.fsync(descriptor)
        os.close(descriptor)


def saves(model: LlamaForCausalLM, place: Path) -> dict[str, Case]:
    """One save each, over what the same one wrote before."""
    state = state_of(model)

    def library() -> None:
        save_file(state, place / "library" / "model.safetensors", metadata={"format": "pt"})
        sync(place / "library")

    def pretrained() -> None:
        model.save_pretrained(place / "pretrained")
        sync(place / "pretrained")

    def pickled() -> None:
        torch.save(state, place / "torch" / "pytorch_model.bin")
        sync(place / "torch")

    for name in ("library", "pretrained", "torch"):
        (place / name).mkdir()
    return {
        "safetensors.save_file + fsync": library,
        "save_pretrained + fsync": pretrained,
        "torch.save + fsync": pickled,
        "forgather, safetensors": lambda: save_checkpoint(place / "ours", model, safetensors=True),
        "forgather, .bin": lambda: save_checkpoint(place / "ours-bin", model),
    }


def loads(model: LlamaForCausalLM, place: Path) -> dict[str, Case]:
    """One load each, of the same numbers, into the same module where there is one."""
    file = place / "library" / "model.safetensors"
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
            torch.load(place / "torch" / "pytorch_model.bin", mmap=True), strict=False
        ),
        "forgather, safetensors": lambda: load_checkpoint(place / "ours", model),
        "forgather, .bin": lambda: load_checkpoint(place / "ours-bin", model),
        "forgather, foreign safetensors": lambda: load_checkpoint(file, model),
        "forgather, foreign .bin": lambda: load_checkpoint(place / "torch" / "pytorch_model.bin", model),
    }


def maps(model: LlamaForCausalLM, place: Path) -> dict[str, Case]:
    """The values as pages of one file, which is the same for all, each page touched once."""
    save_checkpoint(place, model, safetensors=True, max_shard_size="1TB")
    (file,) = place.glob("*.safetensors")
    sizes = [parameter.numel() for parameter in model.parameters()]

    def mapped() -> None:
        with file.open("rb") as stream:
            pages = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_COPY)
            flat = torch.frombuffer(pages, dtype=torch.bfloat16, count=sum(sizes), offset=len(pages) - 2 * sum(sizes))
        touch(flat.split(sizes))

    def ours() -> None:
        load_checkpoint(place, model, assign=True)
        touch(model.parameters())

    def library() -> None:
        model.load_state_dict(load_file(file), strict=False, assign=True)
        model.tie_weights()
        touch(model.parameters())

    return {
        "mmap of the file": mapped,
        "load_file + assign": library,
        "from_pretrained": lambda: touch(AutoModelForCausalLM.from_pretrained(place).parameters()),
        "forgather, assign=True": ours,
    }


def touch(tensors: Iterable[torch.Tensor]) -> None:
    """Read one number of every page of every tensor."""
    for parameter in tensors:
        parameter.detach().reshape(-1)[:: mmap.PAGESIZE // parameter.element_size()].view(torch.int16).sum()


def table(title: str, cases: dict[str, Case], size: int, runs: int, peers: tuple[str, ...]) -> dict[str, float]:
    """Time all in turns, print them, and return the medians.

    Args:
        title: Of the table.
        cases: What is timed.
        size: Bytes of the model.
        runs: How often.
        peers: Those of which the best is 1.00.
    """
    times: dict[str, list[float]] = {name: [] for name in cases}
    for number in range(runs + 1):  # the first warms caches
        for name, case in cases.items():
            os.sync()
            time.sleep(_PAUSE)  # what one leaves the system to do is not another's burden
            began = time.perf_counter()
            case()
            if number:
                times[name].append(time.perf_counter() - began)
    medians = {name: statistics.median(values) for name, values in times.items()}
    base = medians["best of the peers"] = min(medians[name] for name in peers)
    print(f"\n{title:38}{'s, best':>9}{'s, median':>11}{'GB/s':>7}{'ratio':>7}")
    for name, values in times.items():
        best, median = min(values), medians[name]
        print(f"{name:38}{best:9.3f}{median:11.3f}{size / median / 1e9:7.2f}{median / base:7.2f}", flush=True)
    return medians


MEMORY = """
import sys
from pathlib import Path
sys.path.insert(0, {here!r})
from checkpoint import model_of, peak_of
import torch
from forgather_core.checkpoint import load_checkpoint, save_checkpoint
place, layers, what = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
model = model_of(layers)
job = {{
    "save, safetensors": lambda: save_checkpoint(place / "memory", model, safetensors=True),
    "save, .bin": lambda: save_checkpoint(place / "memory-bin", model),
    "load, safetensors": lambda: load_checkpoint(place / "ours", model),
    "load, .bin": lambda: load_checkpoint(place / "ours-bin", model),
    "load float32": lambda: load_checkpoint(place / "wide", model),
    "from_pretrained": lambda: __import__("transformers").AutoModelForCausalLM.from_pretrained(place / "pretrained"),
}}[what]
print(peak_of(job))
"""


def peak_of(job: Case) -> int:
    """Bytes by which a job raises the peak of memory that belongs to this process alone."""
    small = torch.nn.Linear(1000, 1000)
    with tempfile.TemporaryDirectory() as place:  # whatever is allocated once has been
        save_checkpoint(place, small, safetensors=True)
        load_checkpoint(place, small)
    before = status("RssAnon")
    peak = 0

    def watch() -> None:
        nonlocal peak
        while not done.wait(0.001):
            peak = max(peak, status("RssAnon"))

    import threading

    done = threading.Event()
    thread = threading.Thread(target=watch)
    thread.start()
    job()
    peak = max(peak, status("RssAnon"))
    done.set()
    thread.join()
    return max(0, peak - before)


def memory(place: Path, layers: int, size: int) -> float:
    """Print the peaks; the largest of ours, of which each runs in a process of its own, as a part of the model."""
    print(f"\n{'extra peak memory':38}{'MB':>9}{'of model':>11}")
    worst = 0.0
    for what in (
        "save, safetensors",
        "save, .bin",
        "load, safetensors",
        "load, .bin",
        "load float32",
        "from_pretrained",
    ):
        program = MEMORY.format(here=str(Path(__file__).parent))
        command = [sys.executable, "-c", program, str(place), str(layers), what]
        peak = int(subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()[-1])
        print(f"{what:38}{peak / 1e6:9.1f}{peak / size:11.2%}")
        if what != "from_pretrained":
            worst = max(worst, peak / size)
    return worst


def main() -> int:
    """Print the tables; exit code 1 where a bound is broken."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=16)
    parser.add_argument("--runs", type=int, default=7)
    parser.add_argument("--only", choices=("saves",), help="leave out everything but the saves")
    parser.add_argument("--directory", type=Path, default=None)
    asked = parser.parse_args()
    warnings.simplefilter("ignore")
    be_quiet()
    model = model_of(asked.layers)
    size = sum(p.numel() * p.element_size() for p in model.parameters())
    print(f"{size / 1e6:.0f} MB in bfloat16, {asked.runs} runs, safetensors {safetensors.__version__}, {machine()}")
    print(f"SHA-256 by hashlib: {sha256_speed():.2f} GB/s")
    medians = {}
    worst = 0.0
    with tempfile.TemporaryDirectory(dir=asked.directory) as name:
        place = Path(name)
        peers = ("safetensors.save_file + fsync", "save_pretrained + fsync", "torch.save + fsync")
        medians[SAVE] = table(SAVE, saves(model, place), size, asked.runs, peers)
        if not asked.only:
            peers = ("read the bytes", "load_file + load_state_dict", "torch.load(mmap) + load_state_dict")
            medians[LOAD] = table(LOAD, loads(model, place), size, asked.runs, peers)
            save_checkpoint(place / "wide", model.float(), safetensors=True)
            del model
            worst = memory(place, asked.layers, size)
    if not asked.only:
        with tempfile.TemporaryDirectory(dir=asked.directory) as name:
            # Of the sizes of Llama 3 8B: to map is quick, and what does not grow with the size must not be its measure.
            model = model_of(asked.layers, 4096, 14_336)
            size = sum(p.numel() * p.element_size() for p in model.parameters())
            cases = maps(model, Path(name))
            medians[MAP] = table(f"{MAP}, {size / 1e6:.0f} MB", cases, size, 3 * asked.runs, ("mmap of the file",))
    print()
    passed = [
        bar(f"{group}: {ours} / {peer}", medians[group][ours] / medians[group][peer], bound)
        for (group, ours), (peer, bound) in BOUNDS.items()
        if group in medians
    ]
    if not asked.only:
        passed.append(bar("extra peak memory / model", worst, MEMORY_BOUND))
    return int(not all(passed))


def sha256_speed() -> float:
    """GB/s of hashlib's SHA-256."""
    data = bytes(2**26)
    began = time.perf_counter()
    hashlib.sha256(data)
    return len(data) / (time.perf_counter() - began) / 1e9


if __name__ == "__main__":
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    sys.exit(main())
