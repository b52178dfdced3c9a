"""`train`, `sample` and `evaluate` as functions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from forgather_core.options.plain_options import EvaluateOptions, SampleOptions
from forgather_core.options.train_options import TrainOptions
from forgather_core.runtime.extras import require

from .calls import Call, Model, take
from .progress import SILENT, Progress
from .public import public
from .run_results import Evaluation, Samples, TrainingRun


@public()
def train(
    model: Model, *, project: str | Path | None = None, progress: Progress = SILENT, **options: Any
) -> TrainingRun:
    """Train a model with transformers' Trainer, and save it in its directory.

    Args:
        model: A definition or preset, a YAML file, or a resolved model.
        project: See `construct`.
        progress: Callbacks; the run calls `begin`, `record` and `evaluation`.
        **options: The options of `forgather model train`, such as `dataset_project="texts/"`, `tokens="10M"`,
            `lr=1e-3`, `resume=True`. The default device is CUDA or MPS if available, otherwise the CPU.

    Raises:
        TypeError: There is no option of that name.
        TrainingError: The run does not fit into memory or on the disk, or cannot continue; a loss or a gradient is not
            finite; or the loss does not fall. The last checkpoint is complete.
        ForgatherError: See `construct`; or the data cannot be read, or accelerate is not installed.
    """
    call = Call("train", model, project, options)
    chosen = call.take(TrainOptions)
    require("accelerate", "train")
    from forgather_core.commands.construct import ProgressCallbacks
    from forgather_core.training.random_state import kept_random_state
    from forgather_core.training_run.run import TrainingCallbacks, run_training

    constructing = ProgressCallbacks(progress.waiting, progress.verifying, progress.loading, progress.saving)
    with kept_random_state():
        report = run_training(
            call.resolved,
            chosen,
            project=call.project,
            refresh=call.run.refresh_model,
            keep=call.run.keep,
            force=call.run.force,
            callbacks=TrainingCallbacks(
                construct=constructing, begin=progress.begin, record=progress.record, evaluation=progress.evaluation
            ),
        )
    return TrainingRun(report)


@public()
def sample(directory: str | Path, *texts: str, **options: Any) -> Samples:
    """Continue texts with a saved model.

    Args:
        directory: A model directory with weights, exported by Forgather or any causal language model of Hugging Face.
        *texts: The texts; without any, the model generates one text from its BOS token.
        **options: The options of `forgather sample`, such as `temperature=0`, `max_new_tokens=50`, `chat=True`.

    Raises:
        TypeError: There is no option of that name.
        ForgatherError: The directory, its weights or its tokenizer cannot be read.
    """
    chosen = take(SampleOptions, "sample", options)
    from forgather_core.training_run.saved import sample_directory

    return Samples(sample_directory(Path(directory), texts, chosen))


@public()
def evaluate(directory: str | Path, **options: Any) -> Evaluation:
    """Compute the loss of a saved model on a dataset, per token and per byte.

    Args:
        directory: A model directory with weights, exported by Forgather or any causal language model of Hugging Face.
        **options: The options of `forgather eval`, such as `dataset_project="texts/"`, `held_out=True`.

    Raises:
        TypeError: There is no option of that name, or `dataset_project` is missing.
        ForgatherError: The directory, its weights, its tokenizer or the dataset cannot be read.
    """
    chosen = take(EvaluateOptions, "evaluate", options)
    if chosen.dataset_project is None:
        raise TypeError("evaluate() requires dataset_project")
    from forgather_core.training_run.saved import evaluate_directory

    return Evaluation(evaluate_directory(Path(directory), chosen))
