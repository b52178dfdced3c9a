"""Initialize model directories over the processes of FSDP2, without Forgather; run as by torchrun.

    torchrun --standalone --nproc-per-node 3 plain_fsdp.py REPORTS DIRECTORY ...

Each process writes REPORTS/RANK-of-COUNT.json: for each directory, whether each whole tensor equals that of one
process, bit for bit, and the elements that it held. It judges nothing; test_scale_out.py does.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from transformers import AutoConfig, AutoModelForCausalLM

SEED = 5


def main(reports: Path, directories: list[Path]) -> None:
    """Initialize and compare all of them, and write the results of this process."""
    for name in ("forgather", "forgather_core", "forgather_cli"):
        sys.modules[name] = None  # type: ignore[assignment]  # a model directory needs none of it
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    rank, count = dist.get_rank(), dist.get_world_size()
    report = {}
    for directory in directories:
        whole: Any = None
        for turn in range(count):  # one after the other: loading copies the sources into a cache
            if turn == rank:
                torch.manual_seed(SEED)
                whole = from_config(directory)
            dist.barrier()
        report[directory.name] = compare(whole, sharded(directory))
    (reports / f"{rank}-of-{count}.json").write_text(json.dumps(report))
    dist.barrier()
    dist.destroy_process_group()


def from_config(directory: Path) -> Any:
    """Return a new model of a directory, on the current device."""
    config = AutoConfig.from_pretrained(directory, trust_remote_code=True)
    return AutoModelForCausalLM.from_config(config, trust_remote_code=True)


def sharded(directory: Path) -> Any:
    """Return a model whose processes have drawn their parts."""
    torch.manual_seed(SEED)
    with torch.device("meta"):
        model = from_config(directory)
    for layer in model.model.layers:
        fully_shard(layer)
    fully_shard(model)
    model.to_empty(device="cpu")
    model.init_weights()
    return model


def compare(whole: Any, split: Any) -> dict[str, Any]:
    """Return whether each whole tensor of the state is equal, and the numbers of elements of the parameters."""
    expected, given = whole.state_dict(), split.state_dict()
    assert expected.keys() == given.keys()
    tensors = {name: one.full_tensor() if isinstance(one, DTensor) else one for name, one in given.items()}
    buffers, others = dict(whole.named_buffers()), dict(split.named_buffers())
    return {
        "equal": {name: torch.equal(tensors[name], one) for name, one in expected.items()},
        "buffers": {name: torch.equal(others[name], one) for name, one in buffers.items()},
        "elements": sum(one.numel() for one in whole.parameters()),
        "held": sum(one.to_local().numel() for one in split.parameters()),
    }


if __name__ == "__main__":
    main(Path(sys.argv[1]), [Path(argument) for argument in sys.argv[2:]])
