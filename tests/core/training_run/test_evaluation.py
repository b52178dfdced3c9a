"""The loss on held-out documents equals that of each document alone, per token and per byte."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from forgather_core.data.corpus import Corpus
from forgather_core.errors import DataError
from forgather_core.model.meta_model import meta_model
from forgather_core.training_run.evaluation import Part, evaluate, held_out_batches
from tests.support.settings import Resolve, small


class Characters:
    """A tokenizer of bytes, shifted by one, that ends documents with token 0."""

    eos_token_id = 0
    eos_token = "\x00"
    chat_template = None

    def __call__(self, text: str, **_: object) -> dict[str, list[int]]:
        return {"input_ids": [byte + 1 for byte in text.encode()]}


TEXTS = (
    "a short text",
    "ä text with two bytes in a letter",
    "x",
    "",
    "a text that is longer than a row of " + "tokens " * 9,
)


def corpus(*texts: str) -> Corpus:
    return Corpus("texts", lambda: iter(texts))


@pytest.fixture
def model(small: Resolve) -> nn.Module:
    torch.manual_seed(0)
    made = meta_model(small())
    made.to_empty(device="cpu")
    made.init_weights()
    return made.eval()


def alone(model: nn.Module, length: int) -> tuple[float, int]:
    """Return the nats and the number of targets of each document alone, cut into rows."""
    nats, count = 0.0, 0
    for text in TEXTS:
        ids = [byte + 1 for byte in text.encode()] + [0]
        pieces = [ids[at : at + length] for at in range(0, len(ids), length)]
        if len(pieces) > 1 and len(pieces[-1]) == 1:  # a token alone is not predicted: the row before gives one up
            pieces[-2:] = [pieces[-2][:-1], pieces[-2][-1:] + pieces[-1]]
        for piece in pieces:
            row = torch.tensor([piece])
            logits = model(row).logits[0, :-1].double()
            nats += nn.functional.cross_entropy(logits, row[0, 1:], reduction="sum").item()
            count += len(piece) - 1
    return nats, count


@pytest.mark.parametrize("rows", [1, 3, 50])
def test_it_is_the_mean_over_all_tokens(rows: int, model: nn.Module) -> None:
    held_out = held_out_batches(corpus(*TEXTS), Characters(), rows, 24, tokens=None)
    with torch.no_grad():
        nats, count = alone(model, 24)
    found = evaluate(model, held_out)
    assert found.tokens == count
    assert found.loss == pytest.approx(nats / count, rel=1e-5)
    size = sum(len(text.encode()) for text in TEXTS)
    assert held_out.bytes == size
    assert held_out.tokens == size + len(TEXTS)
    assert found.bits_per_byte == pytest.approx(found.loss / math.log(2) * held_out.tokens / size)


@pytest.mark.parametrize("together", [False, True])
def test_processes_divide_the_batches(model: nn.Module, together: bool) -> None:
    held_out = held_out_batches(corpus(*TEXTS), Characters(), 1, 24, tokens=None)
    sums: list[torch.Tensor] = []

    def keep(found: torch.Tensor) -> torch.Tensor:
        sums.append(found)
        return found

    calls: list[int] = []
    for process in range(3):
        hook = model.register_forward_pre_hook(lambda *_, process=process: calls.append(process))
        evaluate(model, held_out, part=Part(process, 3, together=together), total=keep)
        hook.remove()
    forwards = [calls.count(process) for process in range(3)]
    assert len(held_out.batches) % 3  # the last process has fewer batches
    assert (len(set(forwards)) == 1) is together
    nats, count = torch.stack(sums).sum(0).tolist()
    whole = evaluate(model, held_out)
    assert count == whole.tokens
    assert nats / count == pytest.approx(whole.loss)


def test_the_mode_of_the_model_is_restored(model: nn.Module) -> None:
    model.train()
    evaluate(model, held_out_batches(corpus(*TEXTS), Characters(), 2, 24, tokens=None))
    assert model.training


def test_reading_ends_with_the_document_that_has_enough_tokens() -> None:
    held_out = held_out_batches(corpus(*TEXTS), Characters(), 2, 24, tokens=14)
    assert (held_out.documents, held_out.tokens) == (2, 13 + 35)


def test_a_first_special_token_is_no_text() -> None:
    class WithFirst(Characters):
        bos_token_id = 999

        def __call__(self, text: str, **more: object) -> dict[str, list[int]]:
            return {"input_ids": [999, *super().__call__(text, **more)["input_ids"]]}

    plain = held_out_batches(corpus(*TEXTS), Characters(), 2, 64, tokens=None)
    with_first = held_out_batches(corpus(*TEXTS), WithFirst(), 2, 64, tokens=None)
    assert with_first.tokens == plain.tokens
    assert with_first.unigram_entropy == plain.unigram_entropy


def test_documents_without_targets_are_refused() -> None:
    with pytest.raises(DataError, match="no document of texts has two tokens"):
        held_out_batches(corpus(""), Characters(), 2, 64, tokens=None)


def test_the_unigram_entropy_is_that_of_the_frequencies() -> None:
    held_out = held_out_batches(corpus("aab"), Characters(), 1, 8, tokens=None)  # a a b end
    assert held_out.unigram_entropy == pytest.approx(1.5 * math.log(2))


__all__ = ["small"]
