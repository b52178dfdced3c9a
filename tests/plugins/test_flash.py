"""Flash attention receives documents, padding, windows and slopes; a stand-in in plain torch checks the arguments."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import flash_attention_mask

from forgather_core.checks.shared.plain_flash import flash_attention, flash_attn_func, flash_attn_varlen_func
from forgather_core.parts import alibi_flash

from .cases import FIXED_WINDOW, empty_cache, in_chunks, made
from .packed import IDS, POSITIONS, each_alone
from .tiny import TOLERANCE, difference, tokens

NAME = "flash_stand_in"
WITHOUT_SLOPES = ["causal_lm", "llama", "llama, window", "mistral", "qwen3", "qwen3, half window"]
ALIBI = ["deepone, fixed slopes", FIXED_WINDOW]


@pytest.fixture(autouse=True)
def stand_in(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """An attention implementation that receives flash attention's arguments and runs on the CPU."""
    AttentionInterface.register(NAME, documents_only)
    AttentionMaskInterface.register(NAME, flash_attention_mask)
    monkeypatch.setattr(alibi_flash, "flash_attn_func", flash_attn_func)
    monkeypatch.setattr(alibi_flash, "flash_attn_varlen_func", exact_lengths)
    yield
    del AttentionInterface._global_mapping[NAME]
    del AttentionMaskInterface._global_mapping[NAME]


def exact_lengths(q: Tensor, k: Tensor, v: Tensor, *lengths: Any, **more: Any) -> Tensor:
    """Compute flash attention; the longest lengths must be exact, not only large enough."""
    for ends, longest in zip(lengths[:2], lengths[2:], strict=True):
        assert type(longest) is int
        assert longest == ends.diff().max()
    return flash_attn_varlen_func(q, k, v, *lengths, **more)


def documents_only(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **more: Any
) -> tuple[Tensor, None]:
    """Compute flash attention in plain torch; transformers handles padding without documents."""
    assert module.config._attn_implementation == NAME  # transformers' flash function reads it there
    assert attention_mask is None
    if more.get("cu_seq_lens_q") is not None:
        for name in "qk":
            assert type(more[f"max_length_{name}"]) is int
            assert more[f"max_length_{name}"] == more[f"cu_seq_lens_{name}"].diff().max()
    return flash_attention(module, query, key, value, None, **more)


def flash(case: str, **options: Any) -> Any:
    """Return the model of a case with the stand-in; set_attn_implementation would look for the package."""
    model = made(case, **options)
    model.config._attn_implementation = NAME
    return model


@pytest.mark.parametrize("pad", ["none", "ones", "left", "right"])
@pytest.mark.parametrize("mode", ["eval", "train"])
@pytest.mark.parametrize("case", WITHOUT_SLOPES + ALIBI)
@torch.no_grad()
def test_flash_attention_receives_every_document(case: str, mode: str, pad: str) -> None:
    model = flash(case).train(mode == "train")
    ids, positions, mask = IDS, POSITIONS, torch.ones_like(IDS) if pad == "ones" else None
    if pad in ("left", "right"):
        parts = (torch.ones(2, 3, dtype=torch.long), IDS)
        ids = torch.cat(parts if pad == "left" else parts[::-1], dim=1)
        mask, blank = (ids != 1).long(), torch.zeros(2, 3, dtype=torch.long)
        positions = torch.cat((blank, POSITIONS) if pad == "left" else (POSITIONS, blank), dim=1)
    logits = model(ids, position_ids=positions, attention_mask=mask).logits
    real = mask.bool() if mask is not None else torch.ones_like(ids, dtype=torch.bool)
    expected = each_alone(case)
    assert difference(logits[real].view(expected.shape), expected) <= TOLERANCE


@pytest.mark.parametrize("case", ["llama", "deepone, fixed slopes"])
@torch.no_grad()
def test_document_lengths_given_by_the_caller_win(case: str) -> None:
    model, ends = flash(case), torch.tensor([0, 10, 34], dtype=torch.int32)
    given = {"cu_seq_lens_q": ends, "cu_seq_lens_k": ends, "max_length_q": 24, "max_length_k": 24}
    logits = model(IDS, position_ids=POSITIONS, **given).logits
    assert difference(logits, model(IDS, position_ids=POSITIONS).logits) > 0.1


@pytest.mark.parametrize("case", ["llama", "deepone, fixed slopes"])
@torch.no_grad()
def test_packing_onto_a_filled_cache_is_refused(case: str) -> None:
    model = flash(case)
    cache = empty_cache("dynamic", model)
    model(IDS[:, :5], past_key_values=cache)
    with pytest.raises(ValueError, match="'sdpa' or 'flex_attention'"):
        model(IDS[:, 5:], position_ids=POSITIONS[:, 5:], past_key_values=cache)


@pytest.mark.parametrize("case", WITHOUT_SLOPES + ALIBI)
@torch.no_grad()
def test_plain_rows_at_once_and_in_a_cache(case: str) -> None:
    model, ids = flash(case), tokens(2, 20)
    expected = made(case)(ids).logits
    assert difference(model(ids).logits, expected) <= TOLERANCE
    assert difference(model(ids, attention_mask=torch.ones_like(ids)).logits, expected) <= TOLERANCE
    for sizes in ([6, 1, 1, 1, 11], [1] * 20):
        assert difference(in_chunks(model, ids, empty_cache("dynamic", model), sizes), expected) <= TOLERANCE


def padded(side: str) -> tuple[Tensor, Tensor]:
    """Return rows of 20, 14 and 1 real tokens, and their mask."""
    ids, mask = tokens(3, 20), torch.ones(3, 20, dtype=torch.long)
    for row, real in enumerate((20, 14, 1)):
        mask[row, slice(0, 20 - real) if side == "left" else slice(real, 20)] = 0
    return ids, mask


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("case", ALIBI)
@torch.no_grad()
def test_padded_rows_with_slopes(case: str, side: str) -> None:
    ids, mask = padded(side)
    real = mask.bool()
    expected = made(case)(ids, attention_mask=mask).logits
    logits = flash(case)(ids, attention_mask=mask).logits
    assert difference(logits[real], expected[real]) <= TOLERANCE
    assert logits.isfinite().all()


@pytest.mark.parametrize("kind", ["dynamic", "static"])
@pytest.mark.parametrize("sizes", [[12] + [1] * 8, [3, 12, 5]], ids=["token by token", "in chunks"])
@pytest.mark.parametrize("case", ALIBI)
@torch.no_grad()
def test_slopes_in_a_cache_filled_with_left_padding(case: str, sizes: list[int], kind: str) -> None:
    ids, mask = padded("left")
    real = mask.bool()
    expected = made(case)(ids, attention_mask=mask).logits
    model = flash(case)
    logits = in_chunks(model, ids, empty_cache(kind, model), sizes, mask)
    assert difference(logits[real], expected[real]) <= TOLERANCE


@torch.no_grad()
def test_going_on_after_padding_at_the_right() -> None:
    ids, mask = tokens(1, 12), torch.ones(1, 12, dtype=torch.long)
    mask[0, 5:8] = 0
    model = flash("deepone, fixed slopes")
    logits = in_chunks(model, ids, empty_cache("dynamic", model), [8, 1, 3], mask)
    alone = made("deepone, fixed slopes")(ids[:, mask[0].bool()]).logits
    assert difference(logits[:, mask[0].bool()], alone) <= TOLERANCE


@pytest.mark.parametrize("case", ALIBI)
def test_gradients_are_those_of_sdpa(case: str) -> None:
    ids, mask = padded("right")
    labels = ids.masked_fill(mask == 0, -100)
    gradients = []
    for model in (flash(case), made(case)):
        model.train()(ids, attention_mask=mask, labels=labels).loss.backward()
        gradients.append({name: p.grad for name, p in model.named_parameters() if p.requires_grad})
    for name, gradient in gradients[0].items():
        assert difference(gradient, gradients[1][name]) <= TOLERANCE, name


@pytest.mark.parametrize("way", ["plain", "padded", "packed"])
def test_dropout_is_passed_in_training_only(monkeypatch: pytest.MonkeyPatch, way: str) -> None:
    received: list[float] = []

    def listening(*qkv: Tensor, dropout_p: float, **_: Any) -> Tensor:
        received.append(dropout_p)
        return qkv[0]

    for name in ("flash_attn_func", "flash_attn_varlen_func"):
        monkeypatch.setattr(alibi_flash, name, listening)
    model = flash("deepone, fixed slopes", attention_dropout=0.25)
    ids, mask = padded("left")
    given = {"plain": {}, "padded": {"attention_mask": mask}, "packed": {"position_ids": torch.arange(20)[None] % 7}}
    model(ids, **given[way])
    model.train()(ids, **given[way])
    assert received == [0.0, 0.0, 0.25, 0.25]


@pytest.mark.parametrize("case", ["deepone", "single_head"])
def test_slopes_that_are_trained_are_refused(case: str) -> None:
    with pytest.raises(
        ValueError, match="no gradient for ALiBi slopes: choose attn_implementation='sdpa' or 'flex_attention'"
    ):
        flash(case)(IDS)


def test_a_missing_flash_attn_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(alibi_flash, "flash_attn_func", None)
    with pytest.raises(
        ImportError, match="requires the package flash-attn: install it, or choose 'sdpa' or 'flex_attention'"
    ):
        flash("deepone, fixed slopes")(IDS)


@pytest.mark.parametrize("case", ["deepone", "deepone, fixed slopes", "single_head"])
def test_an_implementation_that_takes_no_bias_is_refused(case: str) -> None:
    AttentionInterface.register("vllm", documents_only)  # as vLLM itself does
    try:
        model = made(case)
        model.config._attn_implementation = "vllm"
        with pytest.raises(ValueError, match="'vllm' does not support ALiBi: choose eager, sdpa or flex"):
            model(IDS)
    finally:
        del AttentionInterface._global_mapping["vllm"]
