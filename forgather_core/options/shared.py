"""Options of the model directory, of its build and of a run, shared by all definitions.

The options of a definition cannot reuse their names.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from .parallel import parallel_parts
from .scope import (
    BUILDING_AND_SHOW,
    BUILDING_SHOW_ESTIMATING,
    FULL,
    INITIALIZING,
    LOADING,
    NOT_LISTING,
    ON_REQUEST,
    REAL_DEVICE,
    SAVING,
    WRITING,
    WRITING_AND_SHOW,
)
from .scope import shared_option as option
from .torch_names import device_parts, dtype_name

DIRECTORY = "Model directory"
BUILD = "Build"
CHECKPOINT = "Checkpoint"
PARALLEL = "Several processes"
OUTPUT = "Output"
# The values of --dataset-project, for its help texts.
DATASET_PROJECTS = "stdlib (built in), a directory of YAML configurations, or text, JSON, Parquet or Arrow files"

AttentionImplementation = Literal["eager", "sdpa", "flash_attention_2", "flex_attention"]


@dataclass(kw_only=True, repr=False, eq=False)
class DirectoryOptions:
    """Options of the model directory, in addition to those of the definition."""

    model_name: str | None = option(
        None, help="Model name, also the name of the directory (default: DEFINITION_PRESET)", group=DIRECTORY
    )
    output_dir: Path | None = option(
        None,
        help="Model output directory (default: output_models/MODEL_NAME)",
        group=DIRECTORY,
        commands=WRITING_AND_SHOW,
    )
    from_config: Path | None = option(
        None,
        help="Take options and tokenizer from a Hugging Face model directory",
        group=DIRECTORY,
        metavar="DIR",
        aliases=("like",),
    )
    native: bool = option(
        False,
        help="Write a directory that the native transformers class also loads, without trust_remote_code",
        group=DIRECTORY,
        commands=WRITING_AND_SHOW,
    )
    tokenizer: str = option(
        "bpe-8k", help="Tokenizer: a shipped one (bpe-2k, bpe-8k, bytes), a directory, or a Hub id", group=DIRECTORY
    )
    chat_template: str | None = option(
        None,
        help="Chat template: a Jinja file, chatml, or a template of the tokenizer; null: the tokenizer's own",
        group=DIRECTORY,
        commands=WRITING_AND_SHOW,
    )


@dataclass(kw_only=True, repr=False, eq=False)
class BuildOptions:
    """Options that determine how the model is built from its directory."""

    device: str = option(
        "meta",
        help="Device to construct model on: meta, cpu, cuda, cuda:N, mps",
        group=BUILD,
        commands=BUILDING_SHOW_ESTIMATING,
        helps={"train": "Device to train on: cpu, cuda, cuda:N, mps (default: cuda or mps if available, else cpu)"},
        check=device_parts,
    )
    dtype: str | None = option(
        None,
        help="Construct with default torch dtype (e.g., bfloat16, float32)",
        group=BUILD,
        metavar="DTYPE",
        commands=BUILDING_SHOW_ESTIMATING,
        check=dtype_name,
    )
    no_init_weights: bool = option(
        False,
        help="Skip weight initialization: weights that a checkpoint would overwrite stay uninitialized",
        group=BUILD,
        negatable=False,
        commands=BUILDING_AND_SHOW,
        requirements=(REAL_DEVICE,),
    )
    seed: int = option(
        0,
        help="Seed of the initial weights, of dropout, of the random data of test, and of the texts of verify",
        group=BUILD,
        ge=0,
        lt=2**63,
        commands=WRITING_AND_SHOW,
        requirements=(REAL_DEVICE, INITIALIZING, NOT_LISTING),
    )
    attn_implementation: AttentionImplementation | None = option(
        None,
        help="Attention implementation (default: that of transformers, sdpa)",
        group=BUILD,
        commands=BUILDING_SHOW_ESTIMATING,
    )
    gradient_checkpointing: bool = option(
        False,
        help="Enable gradient checkpointing: recompute activations in backward to save memory",
        group=BUILD,
        commands=BUILDING_SHOW_ESTIMATING,
    )
    parallel: str | None = option(
        None,
        help="Distribute the model over processes: ddp (copies), fsdp (shards), tp (parts of layers), with or without "
        "sizes, such as fsdp=2,tp=2 (default: ddp)",
        group=PARALLEL,
        metavar="SIZES",
        commands=(*WRITING_AND_SHOW, "estimate"),
        requirements=(REAL_DEVICE,),
        check=parallel_parts,
        helps={
            "estimate": "Estimate a device of a mesh: ddp=N (copies), fsdp=N (shards), tp=N (parts of layers), such as "
            "fsdp=8,tp=2",
            "verify": "Also compare processes of a mesh with a single one: ddp=N, fsdp=N, tp=N, such as fsdp=2,tp=2",
        },
    )
    load_from_checkpoint: Path | None = option(
        None,
        help="Load model weights from checkpoint (a directory or a file)",
        group=CHECKPOINT,
        commands=BUILDING_AND_SHOW,
    )
    ignore_mismatched_sizes: bool = option(
        False,
        help="Skip checkpoint tensors of another shape; the parameters keep their initial weights",
        group=CHECKPOINT,
        negatable=False,
        commands=BUILDING_AND_SHOW,
        requirements=(LOADING,),
    )
    verify_checksums: bool = option(
        False,
        help="Compare every file with its recorded checksum before loading",
        group=CHECKPOINT,
        negatable=False,
        commands=BUILDING_AND_SHOW,
        requirements=(LOADING,),
    )
    save_checkpoint: bool = option(
        False, help="Save model checkpoint", group=CHECKPOINT, negatable=False, commands=ON_REQUEST
    )
    safetensors: bool = option(
        False,
        help="Save using safetensors (default: .bin)",
        group=CHECKPOINT,
        negatable=False,
        commands=ON_REQUEST,
        requirements=(SAVING,),
    )
    max_shard_size: str = option(
        "5GB",
        help="Maximum size of each saved weight file (e.g., 500MB)",
        group=CHECKPOINT,
        metavar="SIZE",
        commands=ON_REQUEST,
        requirements=(SAVING,),
    )


@dataclass(kw_only=True, repr=False, eq=False)
class RunOptions:
    """Options of a single run, accepted on the command line only."""

    refresh_model: bool = option(
        False,
        help="Rebuild the model directory from sources; files not written by Forgather are kept",
        group=DIRECTORY,
        flags=("-r",),
        negatable=False,
        commands=WRITING,
        requirements=(NOT_LISTING,),
    )
    keep: bool = option(
        False,
        help="Use the existing model directory unchanged, even if edited or stale",
        group=DIRECTORY,
        negatable=False,
        commands=WRITING,
        requirements=(NOT_LISTING,),
    )
    force: bool = option(
        False,
        help="Ignore insufficient memory; in train, also insufficient disk space, a loss that does not fall, and "
        "weights without gradient",
        group=BUILD,
        negatable=False,
        commands=WRITING,
        requirements=(NOT_LISTING, FULL, REAL_DEVICE),
    )


@dataclass(kw_only=True, repr=False, eq=False)
class LaunchOptions:
    """Options of the processes that the command line starts."""

    nproc_per_node: int | None = option(
        None,
        help="Start this number of processes with torchrun, one for each device",
        group=PARALLEL,
        metavar="N",
        ge=1,
        commands=WRITING,
        requirements=(REAL_DEVICE,),
        helps={"verify": "The number of processes of a --parallel without sizes"},
    )


@dataclass(kw_only=True, repr=False, eq=False)
class JsonOptions:
    """The `--json` option of every command."""

    json: bool = option(False, help="Print the report as JSON", group=OUTPUT, negatable=False)


@dataclass(kw_only=True, repr=False, eq=False)
class OutputOptions(JsonOptions):
    """Options of the output of a report."""

    output_file: Path | None = option(
        None, help="Write output to file: .txt, .json, .html or .svg", group=OUTPUT, flags=("-o",), metavar="FILE"
    )
    edit: bool = option(
        False, help="Write output to a temporary file and open in editor", group=OUTPUT, flags=("-e",), negatable=False
    )
