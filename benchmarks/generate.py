"""Generating with a model directory of Forgather's against transformers' own Llama of the same shape and weights.

python benchmarks/generate.py [--runs 2] [--threads 1]

Greedy, a prompt of 64 tokens, 128 new ones, a dynamic cache, sdpa. With one thread CPU time counts, and what is
compared is the work for a token, not how a busy machine shares it out; with more, the time that passes. The ratio is
that of tokens per second. Exit code 1 where ours is slower over all cases, or in one by more than runs differ, or where
the tokens are others.
"""

from __future__ import annotations

import math
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from _common import be_quiet, in_turns, machine, pair, parser, settings

from forgather_core.commands.construct import construct

BOUND, BOUND_OF_ONE = 1.0, 0.97
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


def _evaluating(models: dict[str, Any]) -> dict[str, Any]:
    return {who: model.eval() for who, model in models.items()}


def generated(model: Any, batch: int, padded: bool) -> torch.Tensor:
    """Token ids [batch, PROMPT + NEW]; `padded`: the prompts have several lengths."""
    ids = torch.randint(5, 1000, (batch, PROMPT), generator=torch.Generator().manual_seed(1))
    mask = torch.ones_like(ids)
    for row in range(batch if padded else 0):
        mask[row, : 3 * row] = 0
    ids = ids.where(mask.bool(), model.config.pad_token_id)
    return model.generate(ids, attention_mask=mask, max_new_tokens=NEW, min_new_tokens=NEW, do_sample=False)


def main() -> int:
    """Print the table; exit code 1 where a bound is broken."""
    options = parser(__doc__, runs=2)
    options.add_argument("--threads", type=int, default=1, help="of torch (default: %(default)s)")
    asked = options.parse_args()
    be_quiet()
    torch.set_num_threads(asked.threads)
    clock = time.process_time if asked.threads == 1 else time.perf_counter
    print(f"{asked.runs} runs, {machine()}\n")
    print(f"{'tokens per second, best':40}{'transformers':>14}{'forgather':>12}{'ratio':>8}")
    ratios = []
    with tempfile.TemporaryDirectory() as place:
        for name, shape in SHAPES.items():
            directory = Path(place) / name
            construct(settings(directory, device="cpu", save_checkpoint=True, safetensors=True, **shape))
            models = {kind: _evaluating(pair(directory, dtype)) for kind, dtype in DTYPES.items()}
            for kind, batch, padded in CASES:
                if name != "4M" and padded:
                    continue
                both, last = models[kind], {}

                def case(who: str) -> None:
                    last[who] = generated(both[who], batch, padded)  # noqa: B023 - called within this turn

                runs = asked.runs if name != "4M" else 4 * asked.runs
                best = in_turns({who: lambda who=who: case(who) for who in both}, runs, clock, warm=name == "4M")
                theirs, ours = (batch * NEW / best[who] for who in ("theirs", "ours"))
                ratios.append(ours / theirs)
                same = torch.equal(last["ours"], last["theirs"])
                title = f"{name}, {kind}, batch {batch}{', padded' if padded else ''}"
                print(
                    f"{title:40}{theirs:14.1f}{ours:12.1f}{ratios[-1]:8.3f}{'' if same else '  other tokens'}",
                    flush=True,
                )
                if not same:
                    ratios[-1] = 0.0
    mean = math.exp(sum(map(math.log, ratios)) / len(ratios)) if min(ratios) > 0 else 0.0
    print(f"\ngeometric mean {mean:.3f} (bound {BOUND}), least {min(ratios):.3f} (bound {BOUND_OF_ONE})")
    return int(mean < BOUND or min(ratios) < BOUND_OF_ONE)


if __name__ == "__main__":
    sys.exit(main())
