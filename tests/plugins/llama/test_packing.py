"""Packed documents never see each other, whatever else is switched on: same logits as each document by itself."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, DynamicCache, StaticCache
from transformers.masking_utils import flash_attention_mask

from .tiny import TOLERANCE, difference, tiny, tokens

# Two rows of three documents each; the third document of the second row is one token.
LENGTHS = [[7, 4, 6], [3, 13, 1]]
IDS = tokens(2, 17)
POSITIONS = torch.tensor([[p for n in row for p in range(n)] for row in LENGTHS])
MODELS: dict[str, dict[str, Any]] = {"plain": {}, "window": {"sliding_window": 5}}
ATTENTION = ["eager", "sdpa"]


def each_alone(model: nn.Module) -> Tensor:
    """The logits of all documents, each run by itself in eval mode without a cache."""
    was_training = model.training
    model.eval()
    rows = [
        torch.cat([model(piece[None], use_cache=False).logits[0] for piece in ids.split(lengths)])
        for ids, lengths in zip(IDS, LENGTHS, strict=True)
    ]
    model.train(was_training)
    return torch.stack(rows)


@pytest.mark.parametrize("ones", [False, True], ids=["no mask", "mask of ones"])
@pytest.mark.parametrize("use_cache", [None, True, False])
@pytest.mark.parametrize("mode", ["eval", "train", "checkpointing"])
@pytest.mark.parametrize("attention", ATTENTION)
@pytest.mark.parametrize("options", MODELS.values(), ids=MODELS)
def test_documents_are_isolated(
    options: dict[str, Any], attention: str, mode: str, use_cache: bool | None, ones: bool
) -> None:
    model = tiny(attention=attention, **options)
    expected = each_alone(model)
    if mode != "eval":
        model.train()
    if mode == "checkpointing":
        model.gradient_checkpointing_enable()
    mask = torch.ones_like(IDS) if ones else None
    packed = model(IDS, position_ids=POSITIONS, attention_mask=mask, use_cache=use_cache).logits
    assert difference(packed, expected) <= TOLERANCE


def test_without_position_ids_nothing_is_packed() -> None:
    model = tiny()
    assert difference(model(IDS).logits, each_alone(model)) > 0.1


@pytest.mark.parametrize("ones", [False, True], ids=["no mask", "mask of ones"])
@pytest.mark.parametrize("sizes", [[17], [7, 10], [5, 1, 1, 4, 6], [1] * 17], ids=str)
@pytest.mark.parametrize("kind", ["dynamic", "static"])
@pytest.mark.parametrize("attention", ATTENTION)
@pytest.mark.parametrize("options", MODELS.values(), ids=MODELS)
@torch.no_grad()
def test_documents_are_isolated_in_a_cache_filled_in_chunks(
    options: dict[str, Any], attention: str, kind: str, sizes: list[int], ones: bool
) -> None:
    model = tiny(attention=attention, **options)
    cache: Any = DynamicCache(config=model.config)
    if kind == "static":
        cache = StaticCache(config=model.config, max_cache_len=20)
    pieces, at = [], 0
    for size in sizes:
        here = slice(at, at + size)
        mask = torch.ones(2, at + size, dtype=torch.long) if ones else None
        out = model(IDS[:, here], position_ids=POSITIONS[:, here], attention_mask=mask, past_key_values=cache)
        pieces.append(out.logits)
        at += size
    assert difference(torch.cat(pieces, dim=1), each_alone(model)) <= TOLERANCE


@pytest.mark.parametrize("counted", ["skipped", "counted"])
@pytest.mark.parametrize("where", ["left", "right", "between"])
@pytest.mark.parametrize("attention", ATTENTION)
def test_documents_are_isolated_beside_padding(where: str, attention: str, counted: str) -> None:
    model = tiny(attention=attention).train()
    at = {"left": 0, "right": 17, "between": 7}[where]  # in the first row, between two documents
    pad = torch.full((2, 3), 1)
    ids = torch.cat((IDS[:, :at], pad, IDS[:, at:]), dim=1)
    mask = (ids != 1).long()
    fill = torch.tensor([8, 9, 10]) if counted == "counted" else torch.zeros(3, dtype=torch.long)
    positions = torch.cat((POSITIONS[:, :at], fill.expand(2, 3), POSITIONS[:, at:]), dim=1)
    logits = model(ids, attention_mask=mask, position_ids=positions).logits
    logits[mask.bool()].sum().backward()
    assert all(p.grad.isfinite().all() for p in model.parameters())
    expected = each_alone(model)
    assert difference(logits[0][mask[0].bool()], expected[0]) <= TOLERANCE
    if where != "between":
        assert difference(logits[1][mask[1].bool()], expected[1]) <= TOLERANCE


@pytest.mark.parametrize("counted", [False, True], ids=["positions skip padding", "positions count padding"])
def test_padding_inside_a_document_does_not_break_it(counted: bool) -> None:
    model = tiny()
    ids, mask = tokens(1, 12), torch.ones(1, 12, dtype=torch.long)
    mask[0, 4:6] = 0
    positions = torch.arange(12)[None] if counted else (mask.cumsum(-1) - 1).masked_fill(mask == 0, 0)
    whole = model(ids, attention_mask=mask, position_ids=positions).logits
    if not counted:
        alone = model(ids[:, mask[0].bool()]).logits
        assert difference(whole[:, mask[0].bool()], alone) <= TOLERANCE
    cache = DynamicCache(config=model.config)
    model(ids[:, :6], attention_mask=mask[:, :6], position_ids=positions[:, :6], past_key_values=cache)
    rest = model(ids[:, 6:], attention_mask=mask, position_ids=positions[:, 6:], past_key_values=cache).logits
    assert difference(rest, whole[:, 6:]) <= TOLERANCE


def test_one_row_of_position_ids_serves_the_whole_batch() -> None:
    model = tiny()
    expanded = model(IDS, position_ids=POSITIONS[:1].expand(2, -1)).logits
    assert difference(model(IDS, position_ids=POSITIONS[:1]).logits, expanded) == 0


def test_positions_that_begin_late_hide_nothing() -> None:
    model = tiny()
    late = torch.arange(17)[None] + 9
    assert difference(model(IDS, position_ids=late).logits, model(IDS).logits) <= 1e-4  # RoPE is relative


@pytest.mark.parametrize("attention", ATTENTION)
def test_gradients_do_not_cross_documents(attention: str) -> None:
    model = tiny(attention=attention).train()
    embeds = model.model.embed_tokens(IDS).detach().requires_grad_()
    model(inputs_embeds=embeds, position_ids=POSITIONS).logits[0, 7:11].sum().backward()
    reached = embeds.grad.abs().sum(-1) > 0
    assert reached[0].nonzero().flatten().tolist() == [7, 8, 9, 10]
    assert not reached[1].any()


@pytest.fixture
def flash() -> Iterator[str]:
    """An attention implementation that is told what flash attention is told, and works on the CPU."""
    name = "flash_stand_in"
    AttentionInterface.register(name, _flash_stand_in)
    AttentionMaskInterface.register(name, flash_attention_mask)
    yield name
    del AttentionInterface._global_mapping[name]
    del AttentionMaskInterface._global_mapping[name]


def _flash_stand_in(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    scaling: float,
    cu_seq_lens_q: Tensor | None = None,
    max_length_q: int | None = None,
    sliding_window: int | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    assert module.config._attn_implementation == "flash_stand_in"  # transformers' flash function reads it there
    assert attention_mask is None
    groups = module.num_key_value_groups
    flat = [x.transpose(1, 2).flatten(0, 1) for x in (query, key, value)]
    ends = [query.shape[2]] * query.shape[0] if cu_seq_lens_q is None else cu_seq_lens_q.diff().tolist()
    assert max_length_q is None or max_length_q == max(ends)
    results = []
    for q, k, v in zip(*(x.split(ends) for x in flat), strict=True):
        seen = torch.ones(len(q), len(q), dtype=torch.bool).tril()
        if sliding_window is not None:
            seen &= ~seen.tril(-sliding_window)
        keys, values = (x.transpose(0, 1).repeat_interleave(groups, 0) for x in (k, v))
        out = nn.functional.scaled_dot_product_attention(q.transpose(0, 1), keys, values, attn_mask=seen, scale=scaling)
        results.append(out.transpose(0, 1))
    return torch.cat(results).view(query.shape[0], -1, query.shape[1], query.shape[3]), None


@pytest.mark.parametrize("pad", ["none", "ones", "left", "right"])
@pytest.mark.parametrize("mode", ["eval", "train"])
@pytest.mark.parametrize("options", MODELS.values(), ids=MODELS)
@torch.no_grad()
def test_flash_attention_is_told_of_every_document(flash: str, options: dict[str, Any], mode: str, pad: str) -> None:
    model = tiny(**options)
    expected = each_alone(model)
    model.config._attn_implementation = flash  # its setter would look for a package of that name
    model.train(mode == "train")
    ids, positions, mask = IDS, POSITIONS, torch.ones_like(IDS) if pad == "ones" else None
    if pad in ("left", "right"):
        parts = (torch.ones(2, 3, dtype=torch.long), IDS)
        ids = torch.cat(parts if pad == "left" else parts[::-1], dim=1)
        mask, blank = (ids != 1).long(), torch.zeros(2, 3, dtype=torch.long)
        positions = torch.cat((blank, POSITIONS) if pad == "left" else (POSITIONS, blank), dim=1)
    logits = model(ids, position_ids=positions, attention_mask=mask).logits
    real = mask.bool() if mask is not None else torch.ones_like(ids, dtype=torch.bool)
    assert difference(logits[real].view(expected.shape), expected) <= TOLERANCE


@torch.no_grad()
def test_document_lengths_given_by_the_caller_win(flash: str) -> None:
    model = tiny()
    model.config._attn_implementation = flash  # its setter would look for a package of that name
    ends = torch.tensor([0, 10, 34], dtype=torch.int32)
    given = {"cu_seq_lens_q": ends, "cu_seq_lens_k": ends, "max_length_q": 24, "max_length_k": 24}
    logits = model(IDS, position_ids=POSITIONS, **given).logits
    assert difference(logits, model(IDS, position_ids=POSITIONS).logits) > 0.1


def test_flash_attention_refuses_what_it_cannot_be_told(flash: str) -> None:
    model = tiny()
    cache = model(IDS[:, :5]).past_key_values
    model.config._attn_implementation = flash  # its setter would look for a package of that name
    with pytest.raises(ValueError, match="'sdpa' or 'flex_attention'"):
        model(IDS[:, 5:], position_ids=POSITIONS[:, 5:], past_key_values=cache)


@pytest.mark.slow
@torch.no_grad()
def test_flex_attention_isolates_documents() -> None:
    torch._dynamo.reset()
    model = tiny()
    expected = each_alone(model)
    model.set_attn_implementation("flex_attention")
    assert difference(model(IDS, position_ids=POSITIONS).logits, expected) <= TOLERANCE


@pytest.mark.slow
@pytest.mark.parametrize("options", MODELS.values(), ids=MODELS)
@torch.no_grad()
def test_compiled_models_isolate_documents(options: dict[str, Any]) -> None:
    torch._dynamo.reset()
    model = tiny(**options)
    compiled = torch.compile(model, fullgraph=True)
    plain = torch.arange(17).expand(2, -1)
    for positions in (POSITIONS, plain):  # one graph must serve both
        packed = compiled(IDS, position_ids=positions, use_cache=False).logits
        assert difference(packed, model(IDS, position_ids=positions, use_cache=False).logits) <= TOLERANCE
