"""A trial from settings to report."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from functools import partial
from itertools import chain
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from ..build import is_checkpointing
from ..data.batches import Batch, packed_batches, padded_batches, random_documents
from ..data.projects import Corpus, open_corpus
from ..data.tokenized import tokenized_documents
from ..errors import BuildError, DataError
from ..export.tokenizer import load_tokenizer
from ..optimizers import FusedStepper, PlainStepper
from ..shared_options import BuildOptions, TrialOptions
from .loop import Step, Trained, train

if TYPE_CHECKING:
    from ..construct import Construction
    from ..settings import Settings

FAR_FROM_UNIFORM = 1.5  # nats: logits of variance v put the first loss about v / 2 above ln(V)


def check_trial(settings: Settings, options: TrialOptions) -> None:
    """Say before any work that a trial cannot run.

    Raises:
        BuildError: There are no numbers to train, or no backward pass.
        DataError: There is no such dataset project or configuration.
    """
    build = settings.build
    if build.device == "meta":
        raise BuildError("test runs the model, and on meta it has no numbers: add --device cpu (or cuda)")
    if build.no_init_weights and build.load_from_checkpoint is None:
        raise BuildError("test with --no-init-weights would train unset memory: load a checkpoint, or drop that flag")
    if build.attn_implementation == "flex_attention" and build.device.startswith("cpu"):
        raise BuildError("--attn-implementation flex_attention has no backward pass on the CPU: use sdpa or eager")
    dropout = getattr(settings.options, "attention_dropout", 0.0)
    if build.attn_implementation == "flex_attention" and dropout > 0:
        raise BuildError(
            f"--attn-implementation flex_attention has no dropout, and attention_dropout is {dropout}: "
            "use sdpa or eager, or set it to 0"
        )
    if options.dataset_config is not None and options.dataset_project is None:
        raise DataError("--dataset-config names a configuration of a --dataset-project: add that option")
    _corpus(options)


def run_trial_of(
    made: Construction, options: TrialOptions, *, on_step: Callable[[Step], None] | None = None
) -> dict[str, Any]:
    """Train what `construct` made for a few steps.

    Args:
        made: The construction; its model's weights change.
        options: Steps, batch, data.
        on_step: Called after each step.

    Returns:
        The report, as plain data: model_name, setup, steps, summary, notes.

    Raises:
        TrialError: A loss or gradient is not finite.
        DataError: The dataset cannot be read.
    """
    model, build = made.model, made.settings.build
    first = next(model.parameters())
    corpus = _corpus(options)
    batches, data = _batches(made, options, corpus)
    batches = chain([next(batches)], batches)  # bad data is found before anything is printed
    torch.manual_seed(build.seed)  # of dropout
    take = FusedStepper if options.fuse_optim_with_backward else PlainStepper
    stepper = take(model, partial(torch.optim.SGD, lr=options.lr))
    trained = train(model, batches, stepper, steps=options.steps, on_step=on_step)
    return {
        "model_name": made.settings.model_name,
        "setup": {
            "directory": str(made.directory.path),
            "device": str(first.device),
            "dtype": str(first.dtype).removeprefix("torch."),
            "attention": model.config._attn_implementation,  # type: ignore[union-attr]
            "gradient_checkpointing": is_checkpointing(model),
            "data": data,
            "batch": f"{options.batch_size} x {options.sequence_length}" + (", packed" if options.packed else ""),
            "optimizer": f"SGD, lr {options.lr:g}"
            + (", fused with backward" if options.fuse_optim_with_backward else ""),
        },
        "steps": [step.as_dict() for step in trained.steps],
        "summary": _summary(trained),
        "notes": [*made.directory.notes, *_notes(made, options, trained)],
    }


def _corpus(options: TrialOptions) -> Corpus | None:
    return open_corpus(options.dataset_project, options.dataset_config) if options.dataset_project else None


def _batches(made: Construction, options: TrialOptions, corpus: Corpus | None) -> tuple[Iterator[Batch], str]:
    rows, length = options.batch_size, options.sequence_length
    vocab_size: int = made.model.config.vocab_size  # type: ignore[union-attr, assignment]
    if corpus is None:
        documents = random_documents(vocab_size, length, seed=made.settings.build.seed, packed=options.packed)
        pad_id, data = 0, "random tokens"  # none is ever padded
    else:
        loaded = load_tokenizer(str(made.directory.path))
        facts = loaded.facts
        if facts.vocab_size > vocab_size:
            raise DataError(
                f"the tokenizer has {facts.vocab_size} entries, and the model's vocabulary only {vocab_size}"
            )
        documents = tokenized_documents(corpus, loaded.tokenizer, longest=None if options.packed else length)
        pad_id, data = facts.pad_token_id if facts.pad_token_id is not None else 0, corpus.name
    if options.packed:
        return packed_batches(documents, rows, length), data
    return padded_batches(documents, rows, length, pad_id), data


def _summary(trained: Trained) -> str:
    steps = trained.steps
    tokens = sum(step.tokens for step in steps)
    seconds = sum(step.tokens / step.tokens_per_second for step in steps)
    head = f"{len(steps)} step{'s' * (len(steps) > 1)}, {tokens:,} tokens in {seconds:.1f} s"
    if len(steps) == 1:
        return f"{head}: loss {steps[0].loss:.4f}, and every gradient is finite"
    change = steps[-1].loss - steps[0].loss
    return f"{head}: loss {steps[0].loss:.4f} to {steps[-1].loss:.4f} ({change:+.4f}), and every gradient is finite"


def _notes(made: Construction, options: TrialOptions, trained: Trained) -> Iterator[str]:
    model, build = made.model, made.settings.build
    if trained.without_gradient:
        names = ", ".join(trained.without_gradient)
        yield f"no gradient reached these parameters, which are outside the graph: {names}"
    yield from _note_on_first_loss(model, build, trained)
    longest = getattr(model.config, "max_position_embeddings", None)
    if isinstance(longest, int) and options.sequence_length > longest:
        yield f"the sequence is longer than the {longest} positions the model is made for"
    if made.saved is not None:
        yield "the saved checkpoint holds the weights from before the test"


def _note_on_first_loss(model: nn.Module, build: BuildOptions, trained: Trained) -> Iterator[str]:
    if build.load_from_checkpoint is not None:
        return
    uniform = math.log(model.config.vocab_size)  # type: ignore[union-attr, arg-type]
    if abs(trained.steps[0].loss - uniform) > FAR_FROM_UNIFORM:
        tied = getattr(model.config, "tie_word_embeddings", False)
        why = "its initial logits are too large, or a token sees itself"
        if tied:  # the head is the embedding that the token itself came in by
            why = "with tied embeddings it begins by predicting each token again; else " + why
        yield (
            f"the first loss is {trained.steps[0].loss:.2f}; a fresh model's should be near ln(vocabulary) = "
            f"{uniform:.2f}: {why}"
        )
