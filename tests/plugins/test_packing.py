"""Packed documents do not attend to each other in any mode: logits equal those of each document alone."""

from __future__ import annotations

from itertools import product
from typing import Any

import pytest
import torch

from .cases import ATTENDING, ATTENTION, EVERYTHING_SEEN, SLOPES, empty_cache, in_chunks, made
from .compiled import compiled_flex_attention, compiled_model
from .packed import IDS, POSITIONS, each_alone
from .tiny import TOLERANCE, difference, tokens

MODES = ["eval", "train", "checkpointing"]
# Every combination for some cases, the most different ones for all.
WAYS = list(product(ATTENTION, MODES, [None, True, False], [False, True]))
FEW_WAYS = [
    ("sdpa", "eval", None, False),
    ("eager", "train", True, True),
    ("sdpa", "checkpointing", True, False),
    ("eager", "eval", False, False),
    ("sdpa", "train", False, True),
]
SIZES = [[17], [7, 10], [5, 1, 1, 4, 6], [1] * 17]
CHUNKINGS = list(product(ATTENTION, ["dynamic", "static"], SIZES, [False, True]))
FEW_CHUNKINGS = [
    ("sdpa", "dynamic", [5, 1, 1, 4, 6], False),
    ("eager", "static", [5, 1, 1, 4, 6], True),
    ("sdpa", "static", [1] * 17, False),
    ("eager", "dynamic", [7, 10], True),
]


def every_case(few: list[Any], many: list[Any], thorough: list[str]) -> Any:
    """Return a few combinations for each case, and many for the thoroughly tested cases."""
    grid = [(case, *way) for case in ATTENDING for way in (many if case in thorough else few)]
    return [pytest.param(*row, id="-".join(map(str, row))) for row in grid]


@pytest.mark.few(75)
@pytest.mark.parametrize(
    ("case", "attention", "mode", "use_cache", "ones"),
    every_case(FEW_WAYS, WAYS, ["llama, window", "deepone", "qwen3, half window"]),
)
def test_documents_are_isolated(case: str, attention: str, mode: str, use_cache: bool | None, ones: bool) -> None:
    model = made(case, attention=attention).train(mode != "eval")
    if mode == "checkpointing":
        model.gradient_checkpointing_enable()
    mask = torch.ones_like(IDS) if ones else None
    packed = model(IDS, position_ids=POSITIONS, attention_mask=mask, use_cache=use_cache).logits
    assert difference(packed, each_alone(case)) <= TOLERANCE


@pytest.mark.parametrize("case", ATTENDING)
@torch.no_grad()
def test_without_position_ids_nothing_is_packed(case: str) -> None:
    assert difference(made(case)(IDS).logits, each_alone(case)) > 0.1


@pytest.mark.few(25)
@pytest.mark.parametrize(
    ("case", "attention", "kind", "sizes", "ones"),
    every_case(FEW_CHUNKINGS, CHUNKINGS, ["llama", "deepone, window"]),
)
@torch.no_grad()
def test_documents_are_isolated_in_a_cache_filled_in_chunks(
    case: str, attention: str, kind: str, sizes: list[int], ones: bool
) -> None:
    model = made(case, attention=attention)
    mask = torch.ones_like(IDS) if ones else None
    logits = in_chunks(model, IDS, empty_cache(kind, model, 20), sizes, mask, position_ids=POSITIONS)
    assert difference(logits, each_alone(case)) <= TOLERANCE


@pytest.mark.few(75)
@pytest.mark.parametrize("counted", ["skipped", "counted"])
@pytest.mark.parametrize("where", ["left", "right", "between"])
@pytest.mark.parametrize("attention", ATTENTION)
@pytest.mark.parametrize("case", ATTENDING)
def test_documents_are_isolated_beside_padding(case: str, where: str, attention: str, counted: str) -> None:
    model = made(case, attention=attention).train()
    at = {"left": 0, "right": 17, "between": 7}[where]  # in the first row, between two documents
    pad = torch.full((2, 3), 1)
    ids = torch.cat((IDS[:, :at], pad, IDS[:, at:]), dim=1)
    mask = (ids != 1).long()
    fill = torch.tensor([8, 9, 10]) if counted == "counted" else torch.zeros(3, dtype=torch.long)
    positions = torch.cat((POSITIONS[:, :at], fill.expand(2, 3), POSITIONS[:, at:]), dim=1)
    logits = model(ids, attention_mask=mask, position_ids=positions).logits
    logits[mask.bool()].sum().backward()
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.requires_grad)
    expected = each_alone(case)
    assert difference(logits[0][mask[0].bool()], expected[0]) <= TOLERANCE
    if where != "between":
        assert difference(logits[1][mask[1].bool()], expected[1]) <= TOLERANCE


@pytest.mark.parametrize("counted", [False, True], ids=["positions skip padding", "positions count padding"])
@pytest.mark.parametrize("case", EVERYTHING_SEEN)
@torch.no_grad()
def test_padding_inside_a_document_does_not_break_it(case: str, counted: bool) -> None:
    model = made(case)
    ids, mask = tokens(1, 12), torch.ones(1, 12, dtype=torch.long)
    mask[0, 4:6] = 0
    positions = torch.arange(12)[None] if counted else (mask.cumsum(-1) - 1).masked_fill(mask == 0, 0)
    whole = model(ids, attention_mask=mask, position_ids=positions).logits
    if not counted or case in SLOPES:  # to ALiBi, padding is no distance
        alone = model(ids[:, mask[0].bool()]).logits
        assert difference(whole[:, mask[0].bool()], alone) <= TOLERANCE
    pieces = in_chunks(model, ids, empty_cache("dynamic", model), [6, 6], mask, position_ids=positions)
    assert difference(pieces[:, 6:], whole[:, 6:]) <= TOLERANCE


@pytest.mark.parametrize("case", ATTENDING)
@torch.no_grad()
def test_one_row_of_position_ids_serves_the_whole_batch(case: str) -> None:
    model = made(case)
    expanded = model(IDS, position_ids=POSITIONS[:1].expand(2, -1)).logits
    assert difference(model(IDS, position_ids=POSITIONS[:1]).logits, expanded) == 0
    assert difference(expanded[:1], each_alone(case)[:1]) <= TOLERANCE


@pytest.mark.parametrize("attention", ATTENTION)
@pytest.mark.parametrize("case", ATTENDING)
def test_gradients_do_not_cross_documents(case: str, attention: str) -> None:
    model = made(case, attention=attention).train()
    embeds = model.model.embed_tokens(IDS).detach().requires_grad_()
    model(inputs_embeds=embeds, position_ids=POSITIONS).logits[0, 7:11].sum().backward()
    reached = embeds.grad.abs().sum(-1) > 0
    assert reached[0].nonzero().flatten().tolist() == [7, 8, 9, 10]
    assert not reached[1].any()


@pytest.mark.few(0, slow=1)
@pytest.mark.parametrize("case", ["causal_lm", "deepone, window", "llama", "qwen3, half window", "single_head"])
@torch.no_grad()
def test_flex_attention_isolates_documents(case: str) -> None:
    model = made(case)
    model.set_attn_implementation("flex_attention")
    with compiled_flex_attention(case):
        assert difference(model(IDS, position_ids=POSITIONS).logits, each_alone(case)) <= TOLERANCE


@pytest.mark.few(0, slow=1)
@pytest.mark.parametrize("case", ATTENDING)
@torch.no_grad()
def test_compiled_models_isolate_documents(case: str) -> None:
    model = made(case)
    compiled = compiled_model(model, case)
    assert difference(compiled(IDS, position_ids=POSITIONS, use_cache=False).logits, each_alone(case)) <= TOLERANCE
    plain = torch.arange(17).expand(2, -1)  # one graph must serve both
    packed = compiled(IDS, position_ids=plain, use_cache=False).logits
    assert difference(packed, model(IDS, position_ids=plain, use_cache=False).logits) <= TOLERANCE
