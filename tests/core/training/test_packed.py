"""Packed rows have the loss of their documents alone, for each packing strategy, chunked or with full logits."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
import torch

from forgather_core.data.batches import packed_batches
from forgather_core.definitions.contracts import unsupported_attention
from forgather_core.training.loss import loss_of
from tests.plugins.tiny import CASES, DEFINITIONS, config_of, tiny, tokens

LENGTHS = [9, 3, 14, 2, 7, 11, 5, 13, 4, 16]
DOCUMENTS = [tokens(1, length, seed=length)[0].tolist() for length in LENGTHS]
ROWS, LENGTH = 5, 16


def implementations(case: str) -> list[str]:
    definition, options = CASES[case]
    refused = unsupported_attention(config_of(definition, **options))
    return [name for name in ("eager", "sdpa") if name not in refused]


TRIED = [(case, name, "best-fit") for case in (*DEFINITIONS, "llama, window") for name in implementations(case)]
TRIED += [("llama", "sdpa", "greedy"), ("llama", "sdpa", "first-fit")]


@pytest.mark.parametrize("full_logits", [False, True], ids=["chunked", "full logits"])
@pytest.mark.parametrize(("case", "attention", "strategy"), TRIED)
def test_packed_documents_have_the_loss_of_each_alone(
    case: str, attention: str, strategy: Any, full_logits: bool
) -> None:
    definition, options = CASES[case]
    model = tiny(definition, attention=attention, **options).train()
    batch = next(packed_batches(DOCUMENTS, ROWS, LENGTH, strategy=strategy, pad_id=1))
    with torch.no_grad():
        packed = loss_of(model, batch.inputs, full_logits=full_logits).item()
        total = count = 0.0
        for ids in _documents(batch.inputs):
            alone = {"input_ids": ids[None], "labels": ids[None]}
            total += loss_of(model, alone, full_logits=full_logits).item() * (len(ids) - 1)
            count += len(ids) - 1
    assert packed == pytest.approx(total / count, rel=1e-5)


def _documents(inputs: dict[str, torch.Tensor]) -> list[torch.Tensor]:
    """Return the documents of a batch that have targets, split where positions restart."""
    found = []
    for ids, positions, labels in zip(*(inputs[n] for n in ("input_ids", "position_ids", "labels")), strict=True):
        begins = [*torch.nonzero(positions == 0).flatten().tolist(), len(ids)]
        for begin, end in pairwise(begins):
            if (labels[begin:end] != -100).any():
                found.append(ids[begin:end])
    return found
