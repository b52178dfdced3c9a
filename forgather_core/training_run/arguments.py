"""The arguments of transformers' Trainer for a training run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import TrainingArguments

from ..options.train_options import TrainOptions
from .plan import MIN_LR, Plan


def training_arguments(
    options: TrainOptions, plan: Plan, directory: Path, *, device: torch.device, seed: int
) -> TrainingArguments:
    """Return the arguments of the Trainer.

    Args:
        options: The options of the run.
        plan: The plan of the run.
        directory: The directory of the checkpoints; its parent, the model directory, names the run for trackers.
        device: The device of the model.
        seed: The seed of dropout.
    """
    arguments = TrainingArguments(
        output_dir=str(directory),
        max_steps=plan.steps,
        per_device_train_batch_size=options.batch_size,
        gradient_accumulation_steps=options.gradient_accumulation_steps,
        learning_rate=plan.lr,
        weight_decay=options.weight_decay,
        max_grad_norm=options.max_grad_norm,
        **_schedule(options, plan),
        bf16=plan.bf16,
        use_cpu=device.type == "cpu",
        torch_compile=options.compile,
        seed=seed,
        logging_strategy="steps",
        logging_steps=plan.log_every,
        logging_first_step=True,
        logging_nan_inf_filter=False,  # Forgather's Trainer raises an error instead
        eval_strategy="steps",
        eval_steps=plan.eval_every,
        save_strategy="steps",
        save_steps=plan.save_every,
        save_total_limit=options.save_total_limit,
        metric_for_best_model="eval_loss",
        greater_is_better=False,
        ignore_data_skip=True,  # the stream continues at the position in the checkpoint
        remove_unused_columns=False,
        dataloader_pin_memory=device.type == "cuda",
        report_to=[name.strip() for name in (options.report_to or "none").split(",")],
        run_name=directory.parent.name,
        disable_tqdm=True,
        ddp_find_unused_parameters=False,
    )
    arguments._n_gpu = min(arguments.n_gpu, 1)  # one device for each process, not torch's DataParallel
    return arguments


def _schedule(options: TrainOptions, plan: Plan) -> dict[str, Any]:
    if options.schedule == "cosine":
        return {
            "lr_scheduler_type": "cosine_with_min_lr",
            "lr_scheduler_kwargs": {"min_lr_rate": MIN_LR},
            "warmup_steps": plan.warmup_steps,
        }
    return {
        "lr_scheduler_type": "warmup_stable_decay",
        "lr_scheduler_kwargs": {"num_decay_steps": plan.decay_steps, "decay_type": "linear"},
        "warmup_steps": plan.warmup_steps,
    }
