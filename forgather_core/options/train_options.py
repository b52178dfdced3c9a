"""Options of `train`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from .command_options import STEP, TrainingStepOptions
from .scope import DATASET, RUNNING, STEPPING
from .scope import shared_option as option
from .shared import DATASET_PROJECTS

DATA = "Data"
OPTIMIZATION = "Optimization"
RUN = "Training run"
_TRAIN = ("train",)


@dataclass(kw_only=True, repr=False, eq=False)
class TrainOptions(TrainingStepOptions):
    """Options of `train`."""

    dataset_project: str | None = option(
        None,
        help=f"Dataset project to train on: {DATASET_PROJECTS}",
        group=DATA,
        commands=RUNNING,
    )
    dataset_config: str | None = option(
        None, help="Dataset config name", group=DATA, commands=RUNNING, requirements=(DATASET,)
    )
    tokens: str = option("10M", help="Number of tokens to train on, such as 500k, 10M, 2B", group=DATA, commands=_TRAIN)
    eval_fraction: float = option(
        0.02, help="Fraction of the documents held out for evaluation", group=DATA, gt=0, lt=1, commands=_TRAIN
    )
    eval_tokens: str = option(
        "100k", help="Number of held-out tokens read by each evaluation", group=DATA, commands=_TRAIN
    )
    packing: Literal["greedy", "first-fit", "best-fit"] = option(
        "greedy",
        help="Packing strategy: greedy cuts documents at row ends, the others only if longer than a row",
        group=DATA,
        commands=RUNNING,
    )
    batch_size: int = option(8, help="Rows per batch and process", group=STEP, ge=1, commands=STEPPING)
    sequence_length: int = option(512, help="Tokens per row", group=STEP, ge=2, commands=STEPPING)
    gradient_accumulation_steps: int = option(1, help="Batches per optimizer step", group=STEP, ge=1, commands=_TRAIN)
    mixed_precision: Literal["auto", "bf16", "no"] = option(
        "auto",
        help="bf16: matrix products in bfloat16, with weights in float32; auto: bf16 if the device supports it",
        group=STEP,
        commands=_TRAIN,
    )
    fuse_optim_with_backward: bool = option(
        False,
        help="Combine backward with optimizer step to save memory",
        group=STEP,
        negatable=False,
        commands=STEPPING,
    )
    full_logits: bool = option(
        False,
        help="Compute the full logits instead of chunked cross-entropy",
        group=STEP,
        negatable=False,
        commands=STEPPING,
    )
    compile: bool = option(
        False, help="Compile the model with torch.compile", group=STEP, negatable=False, commands=RUNNING
    )
    optimizer: Literal["adamw", "sgd", "muon"] = option(
        "adamw",
        help="Optimizer; muon updates the matrices of the layers, AdamW the other parameters",
        group=OPTIMIZATION,
        commands=STEPPING,
    )
    lr: float | None = option(
        None, help="Peak learning rate (default: 1e-3; sgd: 0.1)", group=OPTIMIZATION, ge=0, commands=RUNNING
    )
    weight_decay: float = option(
        0.1, help="Weight decay of matrices, not of norms and biases", group=OPTIMIZATION, ge=0, commands=_TRAIN
    )
    max_grad_norm: float = option(
        1.0, help="Clip the gradient norm to this value; 0: no clipping", group=OPTIMIZATION, ge=0, commands=_TRAIN
    )
    schedule: Literal["cosine", "wsd"] = option(
        "cosine",
        help="Learning rate after warmup: cosine decay to a tenth; wsd: constant, then linear to 0 in the last fifth",
        group=OPTIMIZATION,
        commands=_TRAIN,
    )
    warmup: float = option(
        0.05, help="Fraction of the steps with a linearly increasing learning rate", group=OPTIMIZATION, ge=0, lt=1,
        commands=_TRAIN,
    )  # fmt: skip
    eval_every: int | None = option(
        None, help="Steps between evaluations (default: a tenth of the run)", group=RUN, ge=1, commands=_TRAIN
    )
    save_every: int | None = option(
        None, help="Steps between checkpoints (default: same as --eval-every)", group=RUN, ge=1, commands=_TRAIN
    )
    save_total_limit: int = option(
        2, help="Checkpoints to keep, in addition to the best one", group=RUN, ge=1, commands=_TRAIN
    )
    log_every: int | None = option(
        None, help="Steps between log entries (default: a hundredth of the run)", group=RUN, ge=1,
        commands=_TRAIN,
    )  # fmt: skip
    report_to: str | None = option(
        None,
        help="Experiment trackers, separated by commas, such as tensorboard, wandb or trackio",
        group=RUN,
        metavar="NAMES",
        commands=_TRAIN,
    )
    resume: bool = option(
        False,
        help="Continue from the last checkpoint of the model directory; without one, start a new run",
        group=RUN,
        negatable=False,
        commands=_TRAIN,
    )
