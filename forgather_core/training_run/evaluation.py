"""Evaluate a model: its loss on held-out documents, per token and per byte.

Shapes: B rows, T tokens per row.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..data.batches import IGNORE_INDEX, Batch, all_batches
from ..data.corpus import Corpus, CorpusDigest, message_texts
from ..data.tokenized import no_text, token_ids
from ..errors import DataError
from ..training.loss import loss_of
from ..training.row_share import RowShare


@dataclass(frozen=True)
class HeldOut:
    """Documents for evaluation, tokenized and packed.

    Args:
        batches: Batches of packed rows, on the CPU.
        documents: Number of documents.
        tokens: Tokens of the documents, without a leading BOS token, which represents no text.
        bytes: Bytes of the documents in UTF-8.
        unigram_entropy: Entropy of the token frequencies in nats: the loss of a model that predicts every token by its
            frequency alone.
        digest: Digest of the documents in their order, in hexadecimal.
    """

    batches: tuple[Batch, ...]
    documents: int
    tokens: int
    bytes: int
    unigram_entropy: float
    digest: str


@dataclass(frozen=True)
class Part(RowShare):
    """The part of the held-out batches that a process evaluates.

    Args:
        index, count, copies: See `RowShare`.
        together: Whether the model calls all processes in each forward pass, so that all make the same number of them.
    """

    together: bool = False

    def batches(self, held_out: HeldOut) -> Iterator[tuple[Batch, int]]:
        """Yield each batch with the number of its targets; 0 for a batch that is only there to call all processes."""
        rounds = -(-len(held_out.batches) // self.count)
        for number in range(self.index, rounds * self.count, self.count):
            is_extra = number >= len(held_out.batches)
            if is_extra and not self.together:
                return
            batch = held_out.batches[0 if is_extra else number]
            targets = 0 if is_extra else int((batch.inputs["labels"][:, 1:] != IGNORE_INDEX).sum())
            if targets or self.together:
                yield batch, targets


ALL = Part()


@dataclass(frozen=True)
class Evaluation:
    """The loss on held-out documents.

    Args:
        loss: Mean cross-entropy in nats per token.
        bits_per_byte: Cross-entropy in bits per byte of text: the loss in bits times the tokens per byte of the
            documents. It is comparable between tokenizers.
        tokens: Number of predicted tokens.
    """

    loss: float
    bits_per_byte: float
    tokens: int


def held_out_batches(
    corpus: Corpus, tokenizer: Any, rows: int, length: int, *, tokens: int | None, pad_id: int = 0
) -> HeldOut:
    """Tokenize and pack documents for evaluation. Documents longer than a row are cut.

    Args:
        corpus: The documents.
        tokenizer: A transformers tokenizer.
        rows: Batch size B.
        length: Sequence length T.
        tokens: Stop after the document that reaches this number of tokens; None reads all documents.
        pad_id: Token id of padding.

    Raises:
        DataError: The corpus has no text, or every document has fewer than two tokens.
    """
    tokenized: list[Sequence[int]] = []
    without_bos: list[Sequence[int]] = []
    size = read = 0
    digest = CorpusDigest()
    for document in corpus.documents():
        text = document if isinstance(document, str) else "\n".join(message_texts(document))
        digest.add(document)
        ids = token_ids(document, tokenizer)
        tokenized.append(ids)
        size += len(text.encode("utf-8", "surrogatepass"))
        has_bos = bool(ids) and ids[0] == getattr(tokenizer, "bos_token_id", None)
        without_bos.append(ids[has_bos:])
        read += len(without_bos[-1])
        if tokens is not None and read >= tokens:
            break
    if not tokenized:
        raise no_text(corpus)
    batches = all_batches(tokenized, rows, length, pad_id=pad_id)
    if not batches:
        problem = f"no document of {corpus.name} has two tokens, which leaves nothing to predict"
        raise DataError(problem, hint="use longer documents, or in train hold out more of them with --eval-fraction")
    counts = Counter(token for ids in without_bos for token in ids)
    entropy = -sum(n / read * math.log(n / read) for n in counts.values())
    return HeldOut(tuple(batches), len(tokenized), read, size, entropy, str(digest))


def evaluate(
    model: nn.Module,
    held_out: HeldOut,
    *,
    part: Part = ALL,
    total: Callable[[Tensor], Tensor] = lambda sums: sums,
    context: Callable[[], AbstractContextManager[Any]] = nullcontext,
) -> Evaluation:
    """Compute the loss on held-out documents in evaluation mode, then restore the mode of the model.

    Args:
        model: A transformers causal language model.
        held_out: The documents.
        part: The batches that this process evaluates.
        total: A function that sums a tensor over all processes; it gets the total loss and the number of targets.
        context: Context of the forward pass, such as autocast.
    """
    device = next(model.parameters()).device
    sums = torch.zeros(2, dtype=torch.float64)
    training = model.training
    model.eval()
    try:
        with torch.no_grad():
            for batch, targets in part.batches(held_out):
                inputs = {name: values.to(device) for name, values in batch.inputs.items()}
                with context():
                    loss = loss_of(model, inputs)
                if targets:  # without any, the loss is not a number
                    sums += torch.tensor([loss.item() * targets, targets], dtype=torch.float64)
    finally:
        model.train(training)
    sums = total(sums.to(device if device.type != "mps" else "cpu")) / part.copies
    nats, count = sums.tolist()
    loss_per_token = nats / max(count, 1)
    per_byte = loss_per_token / math.log(2) * held_out.tokens / max(held_out.bytes, 1)
    return Evaluation(loss_per_token, per_byte, int(count))
