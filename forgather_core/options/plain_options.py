"""Options of the commands outside `forgather model`: one class for each command."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from .parallel import parallel_parts
from .scope import shared_option
from .shared import DATASET_PROJECTS
from .torch_names import device_parts, dtype_name

_CHECKSUMS = "Compare every file with its recorded checksum"
_CONFIG = "Dataset config name (default: the config named default, or the only one)"


def option(default: Any, **info: Any) -> Any:
    """Declare an option; see `shared_option`."""
    return shared_option(default, group="Options", **info)


@dataclass(kw_only=True)
class VerifyDirectoryOptions:
    """Options of `forgather verify`."""

    checks: str | None = option(
        None,
        help="Checks to run, separated by commas (default: all)",
        metavar="NAMES",
        aliases=("check",),
        comma_separated=True,
    )
    quick: bool = option(False, help="Skip slow checks and slow ways to call the model", negatable=False)
    full: bool = option(
        False,
        help="Check the model itself instead of a small copy with the same features",
        negatable=False,
    )
    strength: int = option(
        2,
        help="call-agreement: combine ways to call the model in all pairs (2) or all triples (3, many minutes)",
        ge=2,
        le=3,
    )
    case: str | None = option(
        None, help="Run only the case of call-agreement with this id, as printed in a report", metavar="ID"
    )
    against: str | None = option(
        None,
        help="Compare with another implementation: a model directory, or a class of transformers, such as llama",
        metavar="OTHER",
    )
    trust_remote_code: bool = option(
        False, help="Run Python code of DIR and OTHER that Forgather did not write", negatable=False
    )
    parallel: str | None = option(
        None,
        help="Also compare processes of a mesh with a single one: ddp=N, fsdp=N, tp=N, such as fsdp=2,tp=2",
        metavar="SIZES",
        check=parallel_parts,
    )
    seed: int = option(0, help="Seed of the weights and texts", metavar="N", ge=0, lt=2**63)
    junit: Path | None = option(None, help="Also write the results as JUnit XML", metavar="FILE")
    force: bool = option(False, help="With --full: ignore insufficient memory", negatable=False)


@dataclass(kw_only=True)
class InspectOptions:
    """Options of `forgather checkpoint inspect`."""

    verify_checksums: bool = option(False, help=_CHECKSUMS, negatable=False)


@dataclass(kw_only=True)
class ConvertOptions:
    """Options of `forgather checkpoint convert`."""

    format: str | None = option(None, help="safetensors or bin (default: that of SRC)", metavar="FORMAT")
    dtype: str | None = option(
        None, help="New dtype; it replaces the most common dtype of the checkpoint", metavar="DTYPE", check=dtype_name
    )
    keep: str | None = option(
        None, help="Regular expression for names of tensors that keep their dtype", metavar="PATTERN"
    )
    max_shard_size: str = option("5GB", help="Maximum size of each weight file", metavar="SIZE")
    verify_checksums: bool = option(False, help=_CHECKSUMS, negatable=False)


@dataclass(kw_only=True)
class DescribeDatasetOptions:
    """Options of `forgather dataset show`."""

    dataset_config: str | None = option(None, help=_CONFIG, metavar="NAME", aliases=("config",))
    tokenizer: str = option("bpe-8k", help="Shipped tokenizer, directory, or Hub id", metavar="NAME")
    chat_template: str | None = option(
        None,
        help="Chat template for messages: a Jinja file, chatml, or a template of the tokenizer",
        metavar="NAME",
    )
    examples: int = option(3, help="Number of documents to print", metavar="N", ge=0)
    limit: str = option("1000", help="Number of documents to read and count, or all", metavar="N")


@dataclass(kw_only=True)
class TrainTokenizerOptions:
    """Options of `forgather tokenizer train`."""

    dataset_project: str = option(
        None,
        help=f"Dataset project: {DATASET_PROJECTS}",
        metavar="PROJECT",
        required=True,
    )
    vocab_size: int = option(
        None, help="Vocabulary size: special tokens, 256 bytes, merges", metavar="N", ge=1, required=True
    )
    output_dir: Path = option(None, help="New or empty directory", metavar="DIR", flags=("-o",), required=True)
    dataset_config: str | None = option(None, help=_CONFIG, metavar="NAME")
    model_max_length: int = option(2048, help="Maximum length of a text, in tokens", metavar="N", ge=1)


@dataclass(kw_only=True)
class NewPluginOptions:
    """Options of `forgather plugin new`."""

    output_dir: Path | None = option(None, help="New directory (default: forgather-NAME)", metavar="DIR", flags=("-o",))


@dataclass(kw_only=True)
class InspectViewOptions:
    """Options of the output of `forgather checkpoint inspect`."""

    all: bool = option(False, help="List every tensor instead of one row for all layers", negatable=False)


_DEVICE = option(
    None,
    help="Device: cpu, cuda, cuda:N, mps (default: cuda or mps if available, else cpu)",
    metavar="DEVICE",
    check=partial(device_parts, real=True),
)


@dataclass(kw_only=True)
class SampleOptions:
    """Options of `forgather sample`."""

    max_new_tokens: int = option(100, help="Maximum number of new tokens", metavar="N", ge=1)
    samples: int = option(1, help="Number of continuations of each text", metavar="N", ge=1)
    temperature: float = option(0.8, help="Divide logits by this number; 0: greedy decoding", metavar="X", ge=0)
    top_p: float = option(
        0.95, help="Sample from the most probable tokens with this total probability", metavar="X", gt=0, le=1
    )
    seed: int = option(0, help="Seed of the random sampling", metavar="N", ge=0, lt=2**63)
    chat: bool = option(False, help="Format each text as a user message with the chat template", negatable=False)
    device: str | None = _DEVICE
    dtype: str | None = option(
        None, help="Dtype of the weights (default: that of the checkpoint)", metavar="DTYPE", check=dtype_name
    )


@dataclass(kw_only=True)
class EvaluateOptions:
    """Options of `forgather eval`."""

    dataset_project: str = option(
        None,
        help=f"Dataset project to evaluate on: {DATASET_PROJECTS}",
        metavar="PROJECT",
        required=True,
    )
    dataset_config: str | None = option(None, help=_CONFIG, metavar="NAME")
    held_out: bool = option(False, help="Read only the documents that train held out", negatable=False)
    tokens: str = option("100k", help="Number of tokens to read, such as 100k, or all", metavar="N")
    sequence_length: int = option(512, help="Tokens per row; longer documents are cut", metavar="N", ge=2)
    batch_size: int = option(8, help="Rows per batch", metavar="N", ge=1)
    device: str | None = _DEVICE
    dtype: str | None = option(
        None, help="Dtype of the weights (default: that of the checkpoint)", metavar="DTYPE", check=dtype_name
    )
