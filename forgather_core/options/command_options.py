"""Options of single commands: `test`, `estimate`, `compare`, `verify` and `show`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from .scope import DATASET, ESTIMATING, NOT_LISTING, PACKED, RUNNING, STEPPING, TRAINING
from .scope import shared_option as option
from .shared import DATASET_PROJECTS

STEP = "Training step"
TEST = "Options of test"
ESTIMATE = "Options of estimate"
SHOW = "Options of show"
VERIFY = "Options of verify"

_OPTIMIZER: dict[str, Any] = {
    "help": "Optimizer: test trains with sgd or adamw (default: sgd); estimate counts its state (default: adamw)",
    "group": STEP,
    "commands": STEPPING,
}


@dataclass(kw_only=True, repr=False, eq=False)
class TrainingStepOptions:
    """Options of a training step, which `test` runs and `estimate` estimates."""

    batch_size: int = option(2, help="Batch size", group=STEP, ge=1, commands=STEPPING)
    sequence_length: int = option(512, help="Sequence length", group=STEP, ge=2, commands=STEPPING)
    fuse_optim_with_backward: bool = option(
        False,
        help="Combine backward with optimizer step to save memory",
        group=STEP,
        negatable=False,
        commands=STEPPING,
    )
    full_logits: bool = option(
        False,
        help="Compute the full logits instead of chunked cross-entropy, for trainers that read them",
        group=STEP,
        negatable=False,
        commands=STEPPING,
        aliases=("keep_logits",),
    )


@dataclass(kw_only=True, repr=False, eq=False)
class TestOptions(TrainingStepOptions):
    """Options of `test`."""

    __test__ = False  # not a test case, in spite of its name

    steps: int = option(1, help="Number of train steps", group=TEST, ge=1, commands=("test",), requirements=(TRAINING,))
    optimizer: Literal["sgd", "adamw"] = option("sgd", **_OPTIMIZER)
    lr: float = option(0.01, help="Learning rate", group=TEST, ge=0, commands=RUNNING, requirements=(TRAINING,))
    dataset_project: str | None = option(
        None,
        help=f"Dataset project: {DATASET_PROJECTS} (default: random tokens)",
        group=TEST,
        commands=RUNNING,
        requirements=(TRAINING,),
    )
    dataset_config: str | None = option(
        None, help="Dataset config name", group=TEST, commands=RUNNING, requirements=(DATASET, TRAINING)
    )
    packed: bool = option(
        False, help="Enable packed sequences in data collator", group=TEST, negatable=False, commands=("test",)
    )
    packing: Literal["greedy", "first-fit", "best-fit"] | None = option(
        None,
        help="Packing strategy of --packed: greedy cuts documents at row ends, the others only if longer than a row",
        group=TEST,
        commands=RUNNING,
        requirements=(PACKED, TRAINING),
    )
    compile: bool = option(
        False,
        help="Compile the model with torch.compile",
        group=TEST,
        negatable=False,
        commands=RUNNING,
        requirements=(TRAINING,),
    )


@dataclass(kw_only=True, repr=False, eq=False)
class EstimateOptions(TrainingStepOptions):
    """Options of `estimate` and `compare`."""

    optimizer: Literal["sgd", "adamw", "adamw_fused", "adam8bit", "none"] = option("adamw", **_OPTIMIZER)
    precision: Literal["fp32", "bf16", "mixed"] | None = option(
        None,
        help="fp32, bf16 (weights too), or mixed (bf16 matmuls, fp32 weights); default: from --dtype",
        group=ESTIMATE,
        commands=ESTIMATING,
    )
    context_length: int | None = option(
        None,
        help="Tokens in the cache during generation (default: the maximum length of the model)",
        group=ESTIMATE,
        ge=2,
        commands=ESTIMATING,
        aliases=("context",),
    )
    cache: Literal["dynamic", "static"] = option(
        "dynamic", help="Type of KV cache", group=ESTIMATE, commands=ESTIMATING
    )
    mfu: float = option(
        0.4,
        help="Model FLOPs utilization: the fraction of the device's peak FLOP/s that training reaches",
        group=ESTIMATE,
        gt=0,
        le=1,
        commands=("estimate",),
        aliases=("utilization",),
    )
    hardware: Path | None = option(
        None,
        help="YAML file with device specifications, instead of the built-in one",
        group=ESTIMATE,
        metavar="FILE",
        commands=("estimate",),
    )


@dataclass(kw_only=True, repr=False, eq=False)
class VerifyOptions:
    """Options of `verify`."""

    checks: str | None = option(
        None,
        help="Checks to run, separated by commas (default: all)",
        group=VERIFY,
        metavar="NAMES",
        commands=("verify",),
        aliases=("check",),
        comma_separated=True,
    )
    quick: bool = option(
        False,
        help="Skip slow checks and slow ways to call the model",
        group=VERIFY,
        negatable=False,
        commands=("verify",),
    )
    full: bool = option(
        False,
        help="Check the model itself instead of a small copy with the same features",
        group=VERIFY,
        negatable=False,
        commands=("verify",),
        requirements=(NOT_LISTING,),
    )
    strength: int = option(
        2,
        help="call-agreement: combine ways to call the model in all pairs (2) or all triples (3, many minutes)",
        group=VERIFY,
        commands=("verify",),
        requirements=(NOT_LISTING,),
        ge=2,
        le=3,
    )
    case: str | None = option(
        None,
        help="Run only the case of call-agreement with this id, as printed in a report",
        group=VERIFY,
        metavar="ID",
        commands=("verify",),
        requirements=(NOT_LISTING,),
    )
    against: str | None = option(
        None,
        help="Compare with another implementation: a model directory, or a class of transformers, such as llama",
        group=VERIFY,
        metavar="OTHER",
        commands=("verify",),
        requirements=(NOT_LISTING,),
    )
    trust_remote_code: bool = option(
        False,
        help="With --against DIR: run Python code of DIR that Forgather did not write",
        group=VERIFY,
        negatable=False,
        commands=("verify",),
        requirements=(NOT_LISTING,),
    )
    junit: Path | None = option(
        None,
        help="Also write the results as JUnit XML",
        group=VERIFY,
        metavar="FILE",
        commands=("verify",),
        requirements=(NOT_LISTING,),
    )
    list: bool = option(False, help="List the checks", group=VERIFY, negatable=False, commands=("verify",))


@dataclass(kw_only=True, repr=False, eq=False)
class ShowOptions:
    """Options of `show`."""

    init: bool = option(
        False,
        help="Also show the initialization: pattern, rule and init std of each weight",
        group=SHOW,
        negatable=False,
        commands=("show",),
    )
