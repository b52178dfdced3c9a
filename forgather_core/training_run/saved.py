"""Generate samples with a saved model, and evaluate it."""

from __future__ import annotations

import math
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ..checkpoint import find_latest_checkpoint
from ..checkpoint.formats.layout import entry_of
from ..checkpoint.write.steps import CHECKPOINTS
from ..data.held_out import split_corpus
from ..data.projects import open_corpus
from ..errors import BuildError, DataError
from ..model.build import build, check_build, first_device, parse_device
from ..model.directory_errors import directory_problem
from ..options.plain_options import EvaluateOptions, SampleOptions
from ..options.shared import BuildOptions
from ..runtime.quiet import quiet_transformers
from ..tokenizers.lookup import load_tokenizer
from .evaluation import evaluate, held_out_batches
from .plan import token_count
from .record import RECORD, read_record
from .sampling import continuations
from .weights import load_all_weights

_WEIGHTS = "restore the weights, or save them again: train the model, or construct it with --save-checkpoint"


def sample_directory(directory: Path, texts: tuple[str, ...], options: SampleOptions) -> dict[str, Any]:
    """Continue texts with the model of a directory.

    Args:
        directory: A model directory with weights.
        texts: The texts; without texts, generation starts from the BOS or EOS token.
        options: Sampling, device and dtype.

    Returns:
        The report as plain data: model_name, directory, options, samples (prompt and continuation).

    Raises:
        ForgatherError: The directory, its weights or its tokenizer cannot be read, or the tokenizer has no chat
            template.
    """
    with quiet_transformers():
        model = load_model(directory, options.device, options.dtype)
        tokenizer = load_tokenizer(str(directory), option=None).tokenizer
        prompts = [_prompt(text, tokenizer, options.chat) for text in texts or ("",)]
        samples = continuations(
            model,
            tokenizer,
            [prompt for prompt in prompts for _ in range(options.samples)],
            max_new_tokens=options.max_new_tokens,
            seed=options.seed,
            temperature=options.temperature,
            top_p=options.top_p,
        )
    return {"model_name": directory.name, "directory": str(directory), "options": asdict(options), "samples": samples}


def evaluate_directory(directory: Path, options: EvaluateOptions) -> dict[str, Any]:
    """Compute the loss of the model of a directory on a dataset.

    Args:
        directory: A model directory with weights.
        options: The data, batch, device and dtype.

    Returns:
        The report as plain data: model_name, directory, data, documents, loss (nats per token), perplexity,
        bits_per_byte, unigram_entropy, tokens, bytes.

    Raises:
        ForgatherError: The directory, its weights, its tokenizer or the dataset cannot be read.
    """
    tokens = None if options.tokens == "all" else token_count(options.tokens, "--tokens")
    corpus = open_corpus(options.dataset_project, options.dataset_config)
    if options.held_out:
        corpus = split_corpus(corpus, _fraction(directory)).held_out
    with quiet_transformers():
        model = load_model(directory, options.device, options.dtype)
        loaded = load_tokenizer(str(directory), option=None)
        if loaded.facts.vocab_size > model.config.vocab_size:
            problem = (
                f"the tokenizer has {loaded.facts.vocab_size} entries, but the model's vocab_size is "
                f"{model.config.vocab_size}"
            )
            raise DataError(problem, file=directory, hint="restore the tokenizer that the model was trained with")
        held_out = held_out_batches(
            corpus,
            loaded.tokenizer,
            options.batch_size,
            options.sequence_length,
            tokens=tokens,
            pad_id=loaded.facts.pad_token_id or 0,
        )
        evaluation = evaluate(model, held_out)
    return {
        "model_name": directory.name,
        "directory": str(directory),
        "data": corpus.name,
        "documents": held_out.documents,
        "loss": evaluation.loss,
        "perplexity": math.exp(min(evaluation.loss, 700.0)),
        "bits_per_byte": evaluation.bits_per_byte,
        "unigram_entropy": held_out.unigram_entropy,
        "tokens": evaluation.tokens,
        "bytes": held_out.bytes,
    }


def load_model(directory: Path, device: str | None, dtype: str | None) -> Any:
    """Build the model of a directory and load its weights.

    Args:
        directory: A model directory with weights, such as a checkpoint of a run.
        device: The device; None uses the first device of the machine.
        dtype: Name of the dtype of the weights; None keeps that of the configuration.

    Raises:
        ForgatherError: The directory has no model or no weights, or a weight is missing.
    """
    if problem := directory_problem(directory):
        raise BuildError(problem, file=directory, hint="name a model directory")
    if device is not None:
        parse_device(device, real=True)
    options = BuildOptions(device=device or first_device(), dtype=dtype, no_init_weights=True)
    check_build(options, None)
    model: Any = build(directory, options)
    if entry_of(directory) is None and (latest := find_latest_checkpoint(directory)) is not None:
        hint = f"name its last checkpoint, {latest}, or finish the run: train with --resume"
        raise BuildError("has no final weights, because its training run has not ended", file=directory, hint=hint)
    load_all_weights(directory, model, hint=_WEIGHTS)
    return model


def _prompt(text: str, tokenizer: Any, chat: bool) -> list[int]:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise DataError("is not UTF-8", option="TEXT", hint="correct its encoding") from None
    if chat:
        if not tokenizer.chat_template:
            hint = "remove --chat, or construct the model with --chat-template chatml"
            raise DataError("the tokenizer has no chat template", option="--chat", hint=hint)
        messages = [{"role": "user", "content": text}]
        text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    ids: list[int] = tokenizer(text, add_special_tokens=not chat, verbose=False)["input_ids"]
    if ids:
        return ids
    first = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.eos_token_id
    if first is None:
        raise DataError("is empty, and the tokenizer has no BOS or EOS token", option="TEXT", hint="pass a text")
    return [first]


def _fraction(directory: Path) -> float:
    path = directory.resolve()
    hint = "restore the file, or remove --held-out"
    record = read_record(path, hint=hint)
    if not record and path.parent.name == CHECKPOINTS:  # a checkpoint of a run
        record = read_record(path.parent.parent, hint=hint)
    if not record:
        raise DataError(f"has no {RECORD}: nothing was held out", file=directory, hint="remove --held-out")
    fraction = record["options"].get("eval_fraction")
    if not isinstance(fraction, float):
        problem = f"{RECORD} has no valid eval_fraction"
        raise DataError(problem, file=directory, hint=hint)
    return fraction
