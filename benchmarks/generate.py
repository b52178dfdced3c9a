"""Compare the generation speed of an exported model with transformers' Llama of the same shape and weights.

python benchmarks/generate.py [--runs 2] [--threads 1]

Greedy decoding, a prompt of 64 tokens, 128 new tokens, a dynamic cache, sdpa. One thread is measured in CPU time, which
does not depend on the load of the machine; several threads are measured in wall time. The ratio is that of tokens/s.
Exit code 1 if the exported model is slower on average, more than 3 % slower in one case, or generates other tokens.
"""

from __future__ import annotations

import math
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from _common import best_times, machine, pair, parser, settings, silence_transformers

from forgather_core.commands.construct import construct

BOUND, MIN_RATIO = 1.0, 0.97
PROMPT, NEW = 64, 128
SHAPES: dict[str, dict[str, Any]] = {
    "4M": {},
    "100M": {
        "hidden_size": 1024, "intermediate_size": 2816, "num_hidden_layers": 8, "num_attention_heads": 16,
        "num_key_value_heads": 8,
    },
}  # fmt: skip
CASES = [("fp32", 1, False), ("fp32", 8, False), ("fp32", 8, True), ("bf16", 1, False), ("bf16", 8, False)]
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


def _in_eval_mode(models: dict[str, Any]) -> dict[str, Any]:
    return {name: model.eval() for name, model in models.items()}


def generated(model: Any, batch: int, padded: bool) -> torch.Tensor:
    """Generate NEW tokens, and return token ids [batch, PROMPT + NEW]; `padded` prompts have different lengths."""
    ids = torch.randint(5, 1000, (batch, PROMPT), generator=torch.Generator().manual_seed(1))
    mask = torch.ones_like(ids)
    for row in range(batch if padded else 0):
        mask[row, : 3 * row] = 0
    ids = ids.where(mask.bool(), model.config.pad_token_id)
    return model.generate(ids, attention_mask=mask, max_new_tokens=NEW, min_new_tokens=NEW, do_sample=False)


def main() -> int:
    """Print the table and return the exit code: 1 if a bound is missed."""
    options = parser(__doc__, runs=2)
    options.add_argument("--threads", type=int, default=1, help="number of torch threads (default: %(default)s)")
    arguments = options.parse_args()
    silence_transformers()
    torch.set_num_threads(arguments.threads)
    clock = time.process_time if arguments.threads == 1 else time.perf_counter
    print(f"{arguments.runs} runs, {machine()}\n")
    print(f"{'tokens per second, best':40}{'transformers':>14}{'forgather':>12}{'ratio':>8}")
    ratios = []
    with tempfile.TemporaryDirectory() as workdir:
        for name, shape in SHAPES.items():
            directory = Path(workdir) / name
            construct(settings(directory, device="cpu", save_checkpoint=True, safetensors=True, **shape))
            models = {kind: _in_eval_mode(pair(directory, dtype)) for kind, dtype in DTYPES.items()}
            for kind, batch, padded in CASES:
                if name != "4M" and padded:
                    continue
                both, last = models[kind], {}

                def case(side: str) -> None:
                    last[side] = generated(both[side], batch, padded)  # noqa: B023 - called within this iteration

                runs = arguments.runs if name != "4M" else 4 * arguments.runs
                best = best_times({side: lambda side=side: case(side) for side in both}, runs, clock, warm=name == "4M")
                native, exported = (batch * NEW / best[side] for side in ("native", "exported"))
                ratios.append(exported / native)
                same = torch.equal(last["exported"], last["native"])
                title = f"{name}, {kind}, batch {batch}{', padded' if padded else ''}"
                print(
                    f"{title:40}{native:14.1f}{exported:12.1f}{ratios[-1]:8.3f}{'' if same else '  other tokens'}",
                    flush=True,
                )
                if not same:
                    ratios[-1] = 0.0
    mean = math.exp(sum(map(math.log, ratios)) / len(ratios)) if min(ratios) > 0 else 0.0
    print(f"\ngeometric mean {mean:.3f} (bound {BOUND}), minimum {min(ratios):.3f} (bound {MIN_RATIO})")
    return int(mean < BOUND or min(ratios) < MIN_RATIO)


if __name__ == "__main__":
    sys.exit(main())
