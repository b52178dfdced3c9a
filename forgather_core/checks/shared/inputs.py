"""Token ids, masks and positions that several checks use: padded rows and packed documents."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .cached_forward import has_positions
from .model_under_test import LENGTH, ModelUnderTest

PADDED_LENGTHS = (LENGTH, LENGTH // 2, 1)  # real tokens of each padded row
# Lengths of the documents of each packed row; some are longer than a shrunk window.
DOCUMENTS = ((7, 4, LENGTH - 11), (3, LENGTH - 4, 1))


def padded_rows(subject: ModelUnderTest, side: str, lengths: tuple[int, ...] = PADDED_LENGTHS) -> tuple[Tensor, Tensor]:
    """Return padded token ids and their attention mask, [B, T] each.

    Args:
        subject: The model under test.
        side: "left", "right", or "within" for padding in the middle of the row.
        lengths: The number of real tokens of each row.
    """
    length = max(lengths)
    ids, mask = subject.tokens(len(lengths), length), torch.ones(len(lengths), length, dtype=torch.long)
    for row, count in enumerate(lengths):
        begin = {"left": 0, "right": count, "within": count // 2}[side]
        mask[row, begin : begin + length - count] = 0
    return ids.masked_fill(mask == 0, padding_id(subject)), mask


def padding_id(subject: ModelUnderTest) -> int:
    """Return the token id of padding; 0 if the model has none."""
    pad = getattr(subject.text_config, "pad_token_id", None)
    return pad if isinstance(pad, int) and pad >= 0 else 0


def with_special_tokens(subject: ModelUnderTest, text: Tensor) -> Tensor:
    """Return a text [B, T] with the first and the last token id and all special tokens, except padding, in row 0."""
    config = subject.text_config
    known = {0, config.vocab_size - 1, *(i for i in subject.special_ids if 0 <= i < config.vocab_size)}
    ids = sorted(known - {getattr(config, "pad_token_id", None)})[: text.shape[1] // 2]
    return torch.cat((torch.cat((torch.tensor(ids), text[0, len(ids) :]))[None], text[1:]))


def padded_labels(ids: Tensor, mask: Tensor) -> Tensor:
    """Return the labels [B, T] of padded rows: -100 on padding, on first tokens, and on tokens after padding."""
    before = torch.nn.functional.pad(mask[:, :-1], (1, 0))
    return ids.masked_fill((mask == 0) | (before == 0), -100)


def position_arguments(subject: ModelUnderTest, mask: Tensor) -> dict[str, dict[str, Any]]:
    """Return position arguments by case: those of `generate()` and, for models of Forgather, none."""
    if not has_positions(subject, subject.on_meta()):
        return {"no positions": {}}
    given = {"positions as generate() passes them": {"position_ids": real_positions(mask)}}
    return given | {"no positions": {}} if subject.made_by_forgather else given


def real_positions(mask: Tensor) -> Tensor:
    """Return positions [B, T] that count real tokens, as `generate()` makes them; 1 on padding."""
    return (mask.cumsum(-1) - 1).masked_fill(mask == 0, 1)


def logits_of_random_weights(subject: ModelUnderTest, model: Any, text: Tensor) -> tuple[Tensor, Tensor]:
    """Give a model random weights, and return its logits [B, T, V] in evaluation and in training.

    Args:
        subject: The model under test; its seed is that of weights and of dropout.
        model: A model of the subject, perhaps with a smaller vocabulary.
        text: Token ids [B, T].
    """
    subject.randomized(model)
    text = text % model.get_input_embeddings().weight.shape[0]
    with torch.no_grad():
        # Without a cache, which reads some options too: the model itself must read them.
        evaluated = model.eval()(text, use_cache=False).logits
        torch.manual_seed(subject.seed)
        return evaluated, model.train()(text, use_cache=False).logits


def logits_of_rows(model: Any, ids: Tensor, mask: Tensor) -> Tensor:
    """Return the logits [real tokens, V] of all rows, each computed by itself without its padding."""
    rows = zip(ids, mask.bool(), strict=True)
    return torch.cat([model(row[real][None], use_cache=False).logits[0] for row, real in rows])


def packed_rows(subject: ModelUnderTest) -> tuple[Tensor, Tensor]:
    """Return two rows of packed documents and their position ids, [2, LENGTH] each."""
    positions = [[p for length in row for p in range(length)] for row in DOCUMENTS]
    return subject.tokens(len(DOCUMENTS)), torch.tensor(positions)


def split_documents(ids: Tensor) -> list[list[Tensor]]:
    """Return the documents of packed rows, each [1, length]."""
    return [list(row[None].split(list(lengths), 1)) for row, lengths in zip(ids, DOCUMENTS, strict=True)]
