"""The loss of a model on held-out documents, per token and per byte.

Shapes: B rows, T tokens per row.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn

from ..data.batches import IGNORE_INDEX, Batch, all_batches
from ..data.corpus import Corpus, CorpusDigest, message_texts
from ..data.tokenized import no_text, token_ids
from ..errors import DataError
from ..training.loss import loss_of


@dataclass(frozen=True)
class HeldOut:
    """Documents for evaluation, tokenized and packed.

    Args:
        batches: Batches of packed rows, on the CPU.
        documents: Number of documents.
        tokens: Tokens of the documents, without a leading BOS token, which represents no text.
        bytes: Bytes of the documents in UTF-8.
        unigram_entropy: Entropy of the distribution of single tokens in nats: the loss of a model that knows only how
            frequent each token is.
        digest: Digest of the documents in their order, a hexadecimal number.
    """

    batches: tuple[Batch, ...]
    documents: int
    tokens: int
    bytes: int
    unigram_entropy: float
    digest: str


@dataclass(frozen=True)
class Evaluation:
    """The loss on held-out documents.

    Args:
        loss: Mean cross-entropy in nats per token.
        bits_per_byte: Cross-entropy of the text in bits per byte, which compares tokenizers: the loss times the tokens
            per byte of the documents.
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
        tokens: Stop after the document that reaches this number; None reads all documents.
        pad_id: Token id of padding.

    Raises:
        DataError: The corpus has no text, or no document has two tokens.
    """
    found: list[Sequence[int]] = []
    texts: list[Sequence[int]] = []
    size = read = 0
    digest = CorpusDigest()
    for document in corpus.documents():
        text = document if isinstance(document, str) else "\n".join(message_texts(document))
        digest.add(document)
        found.append(token_ids(document, tokenizer))
        size += len(text.encode("utf-8", "surrogatepass"))
        has_bos = bool(found[-1]) and found[-1][0] == getattr(tokenizer, "bos_token_id", None)
        texts.append(found[-1][has_bos:])
        read += len(texts[-1])
        if tokens is not None and read >= tokens:
            break
    if not found:
        raise no_text(corpus)
    batches = all_batches(found, rows, length, pad_id=pad_id)
    if not batches:
        problem = f"no document of {corpus.name} has two tokens, which leaves nothing to predict"
        raise DataError(problem, hint="hold out more with --eval-fraction, or use more text")
    counts = Counter(token for text in texts for token in text)
    entropy = -sum(n / read * math.log(n / read) for n in counts.values())
    return HeldOut(tuple(batches), len(found), read, size, entropy, str(digest))


def evaluate(
    model: nn.Module,
    held_out: HeldOut,
    *,
    part: slice = slice(None),
    total: Callable[[Tensor], Tensor] = lambda sums: sums,
    context: Callable[[], AbstractContextManager[Any]] = nullcontext,
) -> Evaluation:
    """Compute the loss on held-out documents. The mode of the model is restored.

    Args:
        model: A transformers causal language model.
        held_out: The documents.
        part: The batches of this process.
        total: A function that adds up the sums of all processes.
        context: Context of the forward pass, such as autocast.
    """
    device = next(model.parameters()).device
    sums = torch.zeros(2, dtype=torch.float64)
    training = model.training
    model.eval()
    try:
        with torch.no_grad():
            for batch in islice(held_out.batches, part.start, part.stop, part.step):
                targets = int((batch.inputs["labels"][:, 1:] != IGNORE_INDEX).sum())
                if not targets:
                    continue
                inputs = {name: values.to(device) for name, values in batch.inputs.items()}
                with context():
                    loss = loss_of(model, inputs)
                sums += torch.tensor([loss.item() * targets, targets], dtype=torch.float64)
    finally:
        model.train(training)
    nats, count = total(sums.to(device if device.type != "mps" else "cpu")).tolist()
    loss_per_token = nats / max(count, 1)
    per_byte = loss_per_token / math.log(2) * held_out.tokens / max(held_out.bytes, 1)
    return Evaluation(loss_per_token, per_byte, int(count))
