"""Measure the peak memory of saves and loads beyond the model, each in its own process."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path

import torch
from _common import memory_status
from transformers import LlamaConfig, LlamaForCausalLM

from forgather_core.checkpoint import load_checkpoint, save_checkpoint

MEMORY = """
import sys
from pathlib import Path
sys.path.insert(0, {here!r})
from _checkpoint_memory import model_of, peak_of
import torch
from forgather_core.checkpoint import load_checkpoint, save_checkpoint
workdir, layers, case = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
model = model_of(layers)
job = {{
    "save, safetensors": lambda: save_checkpoint(workdir / "memory", model, safetensors=True),
    "save, .bin": lambda: save_checkpoint(workdir / "memory-bin", model),
    "load, safetensors": lambda: load_checkpoint(workdir / "forgather", model),
    "load, .bin": lambda: load_checkpoint(workdir / "forgather-bin", model),
    "load float32": lambda: load_checkpoint(workdir / "wide", model),
    "from_pretrained": lambda: __import__("transformers").AutoModelForCausalLM.from_pretrained(workdir / "pretrained"),
}}[case]
print(peak_of(job))
"""


def model_of(layers: int, hidden: int = 2048, intermediate: int = 8192) -> LlamaForCausalLM:
    """Return a bfloat16 Llama with repeating random weights, by default with the sizes of Llama 3.2 1B."""
    config = LlamaConfig(
        vocab_size=128_256, hidden_size=hidden, intermediate_size=intermediate, num_hidden_layers=layers,
        num_attention_heads=32, num_key_value_heads=8, tie_word_embeddings=True, dtype="bfloat16",
    )  # fmt: skip
    with torch.device("meta"):
        model = LlamaForCausalLM(config)
    model = model.to(torch.bfloat16).to_empty(device="cpu")
    model.tie_weights()
    pattern = torch.randn(10_007, dtype=torch.bfloat16)  # drawing billions of elements takes minutes
    for parameter in model.parameters():
        flat = parameter.data.view(-1)
        repeated = len(flat) // len(pattern) * len(pattern)
        flat[:repeated].view(-1, len(pattern)).copy_(pattern)
        flat[repeated:] = pattern[: len(flat) - repeated]
    model.model.rotary_emb = type(model.model.rotary_emb)(config)
    return model


def peak_of(job: Callable[[], object]) -> int:
    """Return the increase of the process's peak private memory while a job runs, in bytes."""
    small = torch.nn.Linear(1000, 1000)
    with tempfile.TemporaryDirectory() as workdir:  # triggers one-time allocations
        save_checkpoint(workdir, small, safetensors=True)
        load_checkpoint(workdir, small)
    before = memory_status("RssAnon")
    peak = 0

    def watch() -> None:
        nonlocal peak
        while not done.wait(0.001):
            peak = max(peak, memory_status("RssAnon"))

    done = threading.Event()
    thread = threading.Thread(target=watch)
    thread.start()
    job()
    peak = max(peak, memory_status("RssAnon"))
    done.set()
    thread.join()
    return max(0, peak - before)


def memory(workdir: Path, layers: int, size: int) -> float:
    """Print the peaks, each measured in its own process; return Forgather's largest peak relative to the model size.

    Args:
        workdir: Directory with the checkpoints to load.
        layers: Number of layers of the model.
        size: Size of the model in bytes.
    """
    print(f"\n{'extra peak memory':38}{'MB':>9}{'of model':>11}")
    worst = 0.0
    for case in (
        "save, safetensors",
        "save, .bin",
        "load, safetensors",
        "load, .bin",
        "load float32",
        "from_pretrained",
    ):
        program = MEMORY.format(here=str(Path(__file__).parent))
        command = [sys.executable, "-c", program, str(workdir), str(layers), case]
        peak = int(subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()[-1])
        print(f"{case:38}{peak / 1e6:9.1f}{peak / size:11.2%}")
        if case != "from_pretrained":
            worst = max(worst, peak / size)
    return worst
