"""Compare the Trainer of `forgather model train` with transformers' Trainer, and with transformers' own Llama.

python benchmarks/trainer.py [--runs 5] [--steps 200]

Three cases train on the same rows in interleaved runs: transformers' Trainer and Forgather's Trainer (with its
callback) on an exported model, and transformers' Trainer on transformers' Llama of the same shape and weights. One
thread, CPU time. The results are medians over the ratios of consecutive runs. Exit code 1 if
Forgather's Trainer takes more than 1.05 times as long as transformers' Trainer, or if transformers' Llama is faster.
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

import torch
import transformers
from _common import check_bound, machine, pair, parser, settings, silence_transformers
from transformers import TrainingArguments

from forgather.training import Trainer, TrainingCallback, training_optimizer
from forgather_core.commands.construct import construct

ROWS, LENGTH = 2, 128
ENGINE, NATIVE = 1.05, 1.0


def trained(kind: type[transformers.Trainer], model: Any, steps: int, workdir: Path) -> float:
    """Return the CPU seconds of a training run."""
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(5, 1000, (steps * ROWS, LENGTH), generator=generator)
    rows = [{"input_ids": row, "labels": row} for row in ids]
    arguments = TrainingArguments(
        output_dir=str(workdir),
        max_steps=steps,
        per_device_train_batch_size=ROWS,
        save_strategy="no",
        logging_steps=max(1, steps // 100),
        report_to=[],
        disable_tqdm=True,
        use_cpu=True,
    )
    optimizer = training_optimizer("adamw", model, lr=1e-4, weight_decay=0.1)
    callbacks = [TrainingCallback(ROWS * LENGTH, stop=False)] if kind is Trainer else []
    trainer = kind(model=model, args=arguments, train_dataset=rows, optimizers=(optimizer, None), callbacks=callbacks)
    trainer.remove_callback(transformers.PrinterCallback)
    start = time.process_time()
    trainer.train()
    return time.process_time() - start


def main() -> int:
    """Print the ratios and return the exit code: 1 if a bound is missed."""
    options = parser(__doc__, runs=5)
    options.add_argument("--steps", type=int, default=200, help="steps of a run (default: %(default)s)")
    arguments = options.parse_args()
    silence_transformers()
    torch.set_num_threads(1)
    print(f"{arguments.runs} runs of {arguments.steps} steps of {ROWS} x {LENGTH} tokens, {machine()}\n")
    engine, native = [], []
    with tempfile.TemporaryDirectory() as name:
        workdir = Path(name)
        construct(settings(workdir / "model", device="cpu", save_checkpoint=True, safetensors=True))
        for number in range(arguments.runs + 1):
            seconds = {}
            for case, kind, side in (
                ("transformers", transformers.Trainer, "exported"),
                ("forgather", Trainer, "exported"),
                ("native", transformers.Trainer, "native"),
            ):
                model = pair(workdir / "model", torch.float32)[side]
                seconds[case] = trained(kind, model, arguments.steps if number else 10, workdir / case)
            if number:  # the first one warms up
                engine.append(seconds["forgather"] / seconds["transformers"])
                native.append(seconds["forgather"] / seconds["native"])
                print("  ".join(f"{case} {elapsed:.2f} s" for case, elapsed in seconds.items()), flush=True)
    print()
    passed = check_bound("Forgather's Trainer / transformers' Trainer, exported model", median(engine), ENGINE)
    passed &= check_bound(
        "Forgather's Trainer, exported / transformers' Trainer, transformers' Llama", median(native), NATIVE
    )
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
