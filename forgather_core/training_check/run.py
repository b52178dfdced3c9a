"""Run a training check: from a resolved model to a report."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from itertools import chain
from typing import TYPE_CHECKING, Any

import torch

from ..data.batches import Batch, packed_batches, padded_batches, random_documents
from ..data.corpus import Corpus
from ..data.projects import open_corpus
from ..data.tokenized import tokenized_documents
from ..errors import DataError, TrainingCheckError
from ..options.command_options import TestOptions
from ..parallel.splits import check_fused, tensor_plan
from ..tokenizers.lookup import load_tokenizer
from ..training import measure
from ..training.loop import Step, TrainingResult, train
from ..training.optimizers import FusedStepper, PlainStepper, Stepper, optimizer_of
from ..training.preconditions import check_trainable
from ..training.row_share import RowShare
from .findings import report_of

if TYPE_CHECKING:
    from ..commands.construct import ConstructedModel
    from ..settings.resolved_model import ResolvedModel


def check_test_options(resolved: ResolvedModel, options: TestOptions) -> None:
    """Check that the options allow a training check, before any work is done.

    Raises:
        BuildError: The weights would be uninitialized, or the attention implementation cannot be trained.
        DataError: The dataset options contradict each other, or the dataset project or configuration does not exist.
    """
    check_trainable(resolved)
    if options.dataset_config is not None and options.dataset_project is None:
        raise DataError("requires --dataset-project", option="--dataset-config")
    if options.packing is not None and not options.packed:
        raise DataError("requires --packed", option="--packing")
    _corpus(options)


def run_training_check(
    made: ConstructedModel,
    options: TestOptions,
    *,
    on_step: Callable[[Step], None] | None = None,
    on_partial: Callable[[dict[str, Any]], None] | None = None,
) -> dict[str, Any]:
    """Train a constructed model for a few steps; on meta, only estimate a step.

    Args:
        made: The constructed model; its weights change.
        options: Steps, optimizer, batch and data.
        on_step: Called after each step.
        on_partial: Called with the report of the steps so far if the check ends early.

    Returns:
        The report as plain data: model_name, setup, parameters, steps, loss, trained_weights, speed, memory and
        notes.

    Raises:
        TrainingCheckError: A loss or gradient is not finite, or the model cannot be compiled.
        DataError: The dataset cannot be read.
    """
    corpus = _corpus(options)
    data = corpus.name if corpus is not None else "random tokens"
    if next(made.model.parameters()).is_meta:
        return report_of(made, options, data)
    if made.mesh is not None and options.fuse_optim_with_backward:
        check_fused(tensor_plan(made.model.config), made.mesh.sizes)
    with ExitStack() as stack:
        batches = _batches(made, options, corpus, stack)
        batches = chain([next(batches)], batches)  # errors in the data are raised before anything is printed
        before = measure.host_now()

        def report(trained: TrainingResult) -> dict[str, Any]:
            return report_of(made, options, data, trained, host_before=before)

        report_partial = None if on_partial is None else lambda trained: on_partial(report(trained))
        trained = _train(made, options, batches, on_step, report_partial)
    return report(trained)


def _train(
    made: ConstructedModel,
    options: TestOptions,
    batches: Iterator[Batch],
    on_step: Callable[[Step], None] | None,
    on_partial: Callable[[TrainingResult], None] | None,
) -> TrainingResult:
    model = made.model
    stepper_class = FusedStepper if options.fuse_optim_with_backward else PlainStepper
    device_type = next(model.parameters()).device.type
    share = RowShare.of(made.mesh)
    torch.manual_seed(made.resolved.build.seed + (share.index if share is not None else 0))  # for dropout
    arguments: dict[str, Any] = {
        "steps": options.steps,
        "full_logits": options.full_logits,
        "fresh": made.resolved.build.load_from_checkpoint is None,
        "on_step": on_step,
        "on_partial": on_partial,
        "share": share,
    }
    make = optimizer_of(options.optimizer, device_type, lr=options.lr, sharded=share is not None)
    with stepper_class(model, make) as stepper:
        if options.compile:
            return _compiled(model, batches, stepper, arguments)
        return train(model, batches, stepper, **arguments)


def _compiled(model: Any, batches: Iterator[Batch], stepper: Stepper, arguments: dict[str, Any]) -> TrainingResult:
    from torch._dynamo.exc import TorchDynamoException

    model.compile()
    try:
        return train(model, batches, stepper, **arguments)
    except TorchDynamoException as error:
        lines = [line for line in str(error).splitlines() if line.strip()]
        reason = " ".join(lines[:2]) or type(error).__name__  # the operation and its error message
        problem = f"torch cannot compile this model on this machine: {reason}"
        raise TrainingCheckError(problem, option="--compile", hint="remove --compile") from error


def _corpus(options: TestOptions) -> Corpus | None:
    return open_corpus(options.dataset_project, options.dataset_config) if options.dataset_project else None


def _batches(made: ConstructedModel, options: TestOptions, corpus: Corpus | None, stack: ExitStack) -> Iterator[Batch]:
    """Return the batches; `stack` closes the reader of the corpus before its libraries are unloaded."""
    rows, length = options.batch_size, options.sequence_length
    if made.mesh is not None:
        rows *= made.mesh.sizes.data  # each process computes its rows of the whole batch
    vocab_size: int = made.model.config.vocab_size  # type: ignore[union-attr, assignment]
    if corpus is None:
        documents = random_documents(vocab_size, length, seed=made.resolved.build.seed, packed=options.packed)
        pad_id = 0  # any id: padding is never a target
    else:
        loaded = load_tokenizer(str(made.directory.path), option=None)
        facts = loaded.facts
        if facts.vocab_size > vocab_size:
            problem = f"the tokenizer has {facts.vocab_size} entries, but the model's vocab_size is {vocab_size}"
            raise DataError(problem, hint="use another --tokenizer, or raise --vocab-size")
        documents = tokenized_documents(corpus, loaded.tokenizer, longest=None if options.packed else length)
        stack.callback(documents.close)
        pad_id = facts.pad_token_id if facts.pad_token_id is not None else 0
    if options.packed:
        return packed_batches(documents, rows, length, strategy=options.packing or "greedy", pad_id=pad_id)
    return padded_batches(documents, rows, length, pad_id)
