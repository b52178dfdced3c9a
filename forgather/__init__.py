"""Forgather's Python interface: the commands of `forgather` as functions.

    import forgather as fg

    model = fg.construct("llama/4M", hidden_size=128, device="cpu").model

Options are keywords, named like the flags: `hidden_size=128` is `--hidden-size 128`. The functions print nothing, call
no `sys.exit` and install no signal handlers; expected errors are `ForgatherError`s, a wrong keyword is a `TypeError`.

Model directories are written to `output_dir` if it is given, else below `project`, else to a temporary directory that
is reused for equal options and removed when Python exits.

Importing this package loads neither torch nor transformers. `forgather.ml` has context managers and checkpoints for
models of any origin.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from forgather_core.errors import ForgatherError
from forgather_core.settings.resolved_model import ResolvedModel

from .checkpoints import convert_checkpoint, inspect_checkpoint
from .datasets import describe_dataset, list_datasets, train_tokenizer
from .listings import (
    CheckList,
    CheckpointInfo,
    DatasetInfo,
    DatasetList,
    ModelList,
    NewPlugin,
    PluginList,
    TrainedTokenizer,
)
from .model_results import Comparison, Construction, Estimate, ShownModel, TrainingCheck, Verification
from .models import compare, construct, estimate, list_models, resolve, show, test
from .plugins import list_plugins, new_plugin
from .progress import Progress
from .results import Result
from .run_results import Evaluation, Samples, TrainingRun
from .runs import evaluate, sample, train
from .verification import list_checks, verify

if TYPE_CHECKING:
    from .ml.sharded_checkpoint import LoadReport, SaveReport, load_checkpoint, save_checkpoint

__all__ = [
    "CheckList",
    "CheckpointInfo",
    "Comparison",
    "Construction",
    "DatasetInfo",
    "DatasetList",
    "Estimate",
    "Evaluation",
    "ForgatherError",
    "LoadReport",
    "ModelList",
    "NewPlugin",
    "PluginList",
    "Progress",
    "ResolvedModel",
    "Result",
    "Samples",
    "SaveReport",
    "ShownModel",
    "TrainedTokenizer",
    "TrainingCheck",
    "TrainingRun",
    "Verification",
    "compare",
    "construct",
    "convert_checkpoint",
    "describe_dataset",
    "estimate",
    "evaluate",
    "inspect_checkpoint",
    "list_checks",
    "list_datasets",
    "list_models",
    "list_plugins",
    "load_checkpoint",
    "new_plugin",
    "resolve",
    "sample",
    "save_checkpoint",
    "show",
    "test",
    "train",
    "train_tokenizer",
    "verify",
]

# Their module imports torch.
_FROM_CHECKPOINT = frozenset({"LoadReport", "SaveReport", "load_checkpoint", "save_checkpoint"})


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("forgather")
    if name not in _FROM_CHECKPOINT:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from .ml import sharded_checkpoint

    return getattr(sharded_checkpoint, name)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
