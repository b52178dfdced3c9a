"""The options that every definition shares. A definition's own options may not reuse their names."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from .scope import (
    BUILT,
    COMPUTED,
    DATASET,
    ESTIMATING,
    INITIALIZING,
    LISTING,
    LOADING,
    PACKED,
    REAL_DEVICE,
    SAVING,
    STEPPING,
    TRAINING,
    WHOLE,
    WRITING,
    WRITTEN,
)  # fmt: skip
from .scope import shared_option as option

DIRECTORY = "Model directory"
BUILD = "Build"
CHECKPOINT = "Checkpoint"
OUTPUT = "Output"
STEP = "Training step"
TRIAL = "Options of test"
ESTIMATE = "Options of estimate"
SHOW = "Options of show"
VERIFY = "Options of verify"

_OPTIMIZER: dict[str, Any] = {
    "help": "Optimizer: sgd or adamw trains in test (default: sgd); estimate counts the state (default: adamw)",
    "group": STEP,
    "commands": STEPPING,
}

AttentionImplementation = Literal["eager", "sdpa", "flash_attention_2", "flex_attention"]


@dataclass(kw_only=True)
class DirectoryOptions:
    """What a model directory is made of, beside the options of its definition."""

    model_name: str | None = option(
        None, help="Model name; the directory is called after it (default: definition_preset)", group=DIRECTORY
    )
    output_dir: Path | None = option(
        None, help="Model output directory (default: output_models/MODEL_NAME)", group=DIRECTORY, commands=WRITTEN
    )
    like: Path | None = option(
        None, help="Take options and tokenizer from a Hugging Face model directory", group=DIRECTORY
    )
    native: bool = option(
        False,
        help="Write a directory that transformers' own class loads too, without trust_remote_code",
        group=DIRECTORY,
        commands=WRITTEN,
    )
    tokenizer: str = option(
        "bpe-8k", help="Tokenizer: a shipped one (bpe-2k, bpe-8k, bytes), a directory, or a hub id", group=DIRECTORY
    )
    chat_template: str | None = option(
        None,
        help="Chat template: a Jinja file, chatml, or one that the tokenizer has; null keeps its own",
        group=DIRECTORY,
        commands=WRITTEN,
    )


@dataclass(kw_only=True)
class BuildOptions:
    """How an instance of the model is made from its directory."""

    device: str = option(
        "meta", help="Device to construct model on: meta, cpu, cuda, cuda:N, mps", group=BUILD, commands=COMPUTED
    )
    dtype: str | None = option(
        None,
        help="Construct with default torch dtype (e.g., bfloat16, float32)",
        group=BUILD,
        metavar="DTYPE",
        commands=COMPUTED,
    )
    no_init_weights: bool = option(
        False,
        help="Skip the initial weights: only what a checkpoint would overwrite is left unset",
        group=BUILD,
        negatable=False,
        commands=BUILT,
        needs=(REAL_DEVICE,),
    )
    seed: int = option(
        0,
        help="Seed of the initial weights and of test's data",
        group=BUILD,
        ge=0,
        lt=2**63,
        commands=WRITTEN,
        needs=(REAL_DEVICE, INITIALIZING, LISTING),
    )
    attn_implementation: AttentionImplementation | None = option(
        None, help="Attention implementation (default: what transformers chooses, sdpa)", group=BUILD, commands=COMPUTED
    )
    gradient_checkpointing: bool = option(
        False,
        help="Enable gradient checkpointing: recompute activations in backward to save memory",
        group=BUILD,
        commands=COMPUTED,
    )
    load_from_checkpoint: Path | None = option(
        None, help="Load model weights from checkpoint (a directory or a file)", group=CHECKPOINT, commands=BUILT
    )
    ignore_mismatched_sizes: bool = option(
        False,
        help="Load a checkpoint even if tensors have another shape: these keep their initial weights",
        group=CHECKPOINT,
        negatable=False,
        commands=BUILT,
        needs=(LOADING,),
    )
    verify_checksums: bool = option(
        False,
        help="Compare every file with its recorded checksum before loading",
        group=CHECKPOINT,
        negatable=False,
        commands=BUILT,
        needs=(LOADING,),
    )
    save_checkpoint: bool = option(
        False, help="Save model checkpoint", group=CHECKPOINT, negatable=False, commands=BUILT
    )
    safetensors: bool = option(
        False,
        help="Save using safetensors (default: .bin)",
        group=CHECKPOINT,
        negatable=False,
        commands=BUILT,
        needs=(SAVING,),
    )
    max_shard_size: str = option(
        "5GB",
        help="Largest size of one saved weight file (e.g., 500MB)",
        group=CHECKPOINT,
        metavar="SIZE",
        commands=BUILT,
        needs=(SAVING,),
    )


@dataclass(kw_only=True)
class RunOptions:
    """Options of one run: they stand on the command line only."""

    refresh_model: bool = option(
        False,
        help="Rebuild the model directory from sources; files that Forgather did not write stay",
        group=DIRECTORY,
        flags=("-r",),
        negatable=False,
        commands=WRITING,
        needs=(LISTING,),
    )
    keep: bool = option(
        False,
        help="Use the model directory as it is, even if edited or stale",
        group=DIRECTORY,
        negatable=False,
        commands=WRITING,
        needs=(LISTING,),
    )
    force: bool = option(
        False,
        help="Go on even if there seems to be too little memory",
        group=BUILD,
        negatable=False,
        commands=WRITING,
        needs=(LISTING, WHOLE, REAL_DEVICE),
    )
    output_file: Path | None = option(
        None, help="Write output to file: .txt, .json, .html or .svg", group=OUTPUT, flags=("-o",), metavar="FILE"
    )
    edit: bool = option(
        False, help="Write output to a temporary file and open in editor", group=OUTPUT, flags=("-e",), negatable=False
    )
    json: bool = option(False, help="Print the report as JSON", group=OUTPUT, negatable=False)


@dataclass(kw_only=True)
class TrainingStepOptions:
    """A step of training: `test` takes it, `estimate` foresees it."""

    batch_size: int = option(2, help="Batch size", group=STEP, ge=1, commands=STEPPING)
    sequence_length: int = option(512, help="Sequence length", group=STEP, ge=2, commands=STEPPING)
    fuse_optim_with_backward: bool = option(
        False,
        help="Combine backward with optimizer step to save memory",
        group=STEP,
        negatable=False,
        commands=STEPPING,
    )
    keep_logits: bool = option(
        False,
        help="Compute all logits at once, not a part at a time: what trainers that look at them make a model do",
        group=STEP,
        negatable=False,
        commands=STEPPING,
    )


@dataclass(kw_only=True)
class TestOptions(TrainingStepOptions):
    """What `test` does with the model."""

    steps: int = option(1, help="Number of train steps", group=TRIAL, ge=1, commands=("test",), needs=(TRAINING,))
    optimizer: Literal["sgd", "adamw"] = option("sgd", **_OPTIMIZER)
    lr: float = option(0.01, help="Learning rate", group=TRIAL, ge=0, commands=("test",), needs=(TRAINING,))
    dataset_project: str | None = option(
        None,
        help="Dataset project: a directory, or stdlib (built in); random tokens without",
        group=TRIAL,
        commands=("test",),
        needs=(TRAINING,),
    )
    dataset_config: str | None = option(
        None, help="Dataset config name", group=TRIAL, commands=("test",), needs=(DATASET, TRAINING)
    )
    packed: bool = option(
        False, help="Enable packed sequences in data collator", group=TRIAL, negatable=False, commands=("test",)
    )
    packing: Literal["greedy", "first-fit", "best-fit"] | None = option(
        None,
        help="How --packed fills rows: greedy (documents are cut where a row ends), or with whole documents",
        group=TRIAL,
        commands=("test",),
        needs=(PACKED, TRAINING),
    )
    compile: bool = option(
        False,
        help="Compile the model with torch.compile",
        group=TRIAL,
        negatable=False,
        commands=("test",),
        needs=(TRAINING,),
    )


@dataclass(kw_only=True)
class EstimateOptions(TrainingStepOptions):
    """What `estimate` foresees beside the step."""

    optimizer: Literal["sgd", "adamw", "adamw_fused", "adam8bit", "none"] = option("adamw", **_OPTIMIZER)
    precision: Literal["fp32", "bf16", "mixed"] | None = option(
        None,
        help="fp32, bf16 (weights too), or mixed (bf16 products, fp32 weights); default: by --dtype",
        group=ESTIMATE,
        commands=ESTIMATING,
    )
    context: int | None = option(
        None, help="Tokens in the cache while generating (default: the positions the model is made for)",
        group=ESTIMATE, ge=2, commands=ESTIMATING)  # fmt: skip
    cache: Literal["dynamic", "static"] = option(
        "dynamic", help="Kind of key/value cache", group=ESTIMATE, commands=ESTIMATING
    )
    utilization: float = option(
        0.4, help="Part of a device's peak that training reaches", group=ESTIMATE, gt=0, le=1, commands=("estimate",)
    )
    hardware: Path | None = option(
        None,
        help="YAML file of devices and what they have, instead of the built-in one",
        group=ESTIMATE,
        metavar="FILE",
        commands=("estimate",),
    )


@dataclass(kw_only=True)
class VerifyOptions:
    """What `verify` tries."""

    check: str | None = option(
        None, help="Checks to try, joined by commas (default: all)", group=VERIFY, commands=("verify",)
    )
    quick: bool = option(
        False, help="Leave out checks that take long", group=VERIFY, negatable=False, commands=("verify",)
    )
    full: bool = option(
        False,
        help="Check the model as it is, not a small one with the same features",
        group=VERIFY,
        negatable=False,
        commands=("verify",),
        needs=(LISTING,),
    )
    list: bool = option(False, help="List the checks", group=VERIFY, negatable=False, commands=("verify",))


@dataclass(kw_only=True)
class ShowOptions:
    """What `show` tells."""

    init: bool = option(
        False,
        help="Show the initial weights too: pattern, rule, standard deviation",
        group=SHOW,
        negatable=False,
        commands=("show",),
    )
