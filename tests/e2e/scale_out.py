"""Compare model directories in one process and split over two in every way; run by torchrun, or as by torchrun.

    torchrun --standalone --nproc-per-node 2 scale_out.py REPORTS DIRECTORY ...

Each process writes REPORTS/RANK.json: for each directory and each way of splitting it, by how much it differs from the
whole model, and what of it the process has. It judges nothing; test_scale_out.py does.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor
from transformers import AutoModelForCausalLM
from transformers.distributed import DistributedConfig

# Parallelism -> the size to set, and the dtype.
WAYS: dict[str, tuple[str, torch.dtype]] = {
    "tp": ("tp_size", torch.float32),
    "pp": ("pp_size", torch.float32),
    "fsdp": ("fsdp_size", torch.float32),
    "fsdp, bfloat16": ("fsdp_size", torch.bfloat16),
}
PROMPT, NEW_TOKENS = 9, 12


def main(reports: Path, directories: list[Path]) -> None:
    """Compare all of them, and write the results of this process."""
    for name in ("forgather", "forgather_core", "forgather_cli"):
        sys.modules[name] = None  # type: ignore[assignment]  # a model directory needs none of it
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    rank, size = dist.get_rank(), dist.get_world_size()
    report: dict[str, Any] = {}
    for directory in directories:
        whole = {}
        for turn in range(size):  # one after the other: loading copies the sources into a cache
            if turn == rank:
                whole = {dtype: load(directory, dtype) for _, dtype in WAYS.values()}
            dist.barrier()
        report[directory.name] = {
            way: compare(whole[dtype], load(directory, dtype, distributed_config=DistributedConfig(**{key: size})))
            for way, (key, dtype) in WAYS.items()
        }
    (reports / f"{rank}.json").write_text(json.dumps(report))
    dist.barrier()
    dist.destroy_process_group()


def load(directory: Path, dtype: torch.dtype, **more: Any) -> Any:
    """Load a model in the documented way, in eval mode."""
    return AutoModelForCausalLM.from_pretrained(directory, trust_remote_code=True, dtype=dtype, **more)


def compare(whole: Any, split: Any) -> dict[str, Any]:
    """Return this process's parameters, the logits, greedy tokens and gradients."""
    # Before the first run: FSDP replaces parameters while it runs.
    parameters = {name: kind(parameter) for name, parameter in split.named_parameters()}
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(3, whole.config.vocab_size, (2, 24), generator=generator)
    with torch.no_grad():
        expected, given = whole(ids, use_cache=False).logits, split(ids, use_cache=False).logits
    padded = torch.ones(2, PROMPT, dtype=torch.long)
    padded[0, :4] = 0
    options = {"attention_mask": padded, "max_new_tokens": NEW_TOKENS, "do_sample": False, "eos_token_id": None}
    report = {
        "logits": largest(given - expected),
        "size of logits": largest(expected),
        "tokens": split.generate(ids[:, :PROMPT], **options).tolist(),
        "tokens of the whole": whole.generate(ids[:, :PROMPT], **options).tolist(),
        "parameters": parameters,
        "units": [name for name, module in split.named_modules() if isinstance(module, FSDPModule)],
    }
    if not hasattr(split, "_pp_stage"):  # a pipeline of transformers' computes no gradients
        report["gradients"] = compare_gradients(whole, split, ids)
    return report


def compare_gradients(whole: Any, split: Any, ids: Tensor) -> dict[str, float]:
    """Return the largest difference for each parameter, relative to the largest element of the expected gradient."""
    for model in (whole, split):
        model.zero_grad()
        model(ids, labels=ids, use_cache=False).loss.backward()
    right = {name: parameter.grad for name, parameter in whole.named_parameters()}
    given = {name: gathered(parameter.grad) for name, parameter in split.named_parameters()}
    assert right.keys() == given.keys()
    return {name: largest(given[name] - right[name]) / largest(right[name]) for name in right}


def gathered(tensor: Tensor) -> Tensor:
    """Return the full tensor of a sharded one."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def kind(parameter: Tensor) -> dict[str, Any]:
    """Return dtype, shape, and shape of the local shard."""
    piece = parameter.to_local() if isinstance(parameter, DTensor) else parameter
    return {"dtype": str(parameter.dtype), "shape": list(parameter.shape), "here": list(piece.shape)}


def largest(tensor: Tensor) -> float:
    """Return the largest absolute value."""
    return tensor.float().abs().max().item()


if __name__ == "__main__":
    main(Path(sys.argv[1]), [Path(argument) for argument in sys.argv[2:]])
