"""The options of single commands of `forgather model`, by command."""

from __future__ import annotations

from .command_options import EstimateOptions, ShowOptions, TestOptions, VerifyOptions
from .train_options import TrainOptions

COMMAND_OPTIONS: dict[str, type] = {
    "test": TestOptions,
    "train": TrainOptions,
    "verify": VerifyOptions,
    "show": ShowOptions,
    "estimate": EstimateOptions,
    "compare": EstimateOptions,
}
