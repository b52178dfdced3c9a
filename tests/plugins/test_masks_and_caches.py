"""Logits are the same with padding, with a cache, in chunks, and with a mask from the caller."""

from __future__ import annotations

from itertools import product
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from forgather_core.parts.caches import CACHE
from forgather_core.parts.positions import token_positions

from .cases import ATTENDING, ATTENTION, EVERYTHING_SEEN, RELATIVE, WINDOWED, empty_cache, in_chunks, made
from .tiny import TOLERANCE, difference, tokens

WINDOW = 5
REAL = (14, 9, 1)  # tokens in each of three rows
# Chunks around and across the window, single tokens, and everything at once.
CHUNKINGS = [[24], [7, 1, 5, 1, 1, 9], [3, 21], [4, 1, 19], [5, 6, 13], [23, 1], [1] * 24]


def padded(side: str) -> tuple[Tensor, Tensor]:
    """Return rows with these numbers of real tokens, and their mask."""
    ids, mask = tokens(len(REAL), 14), torch.ones(len(REAL), 14, dtype=torch.long)
    for row, real in enumerate(REAL):
        mask[row, slice(0, 14 - real) if side == "left" else slice(real, 14)] = 0
    return ids.masked_fill(mask == 0, 1), mask


def rows_alone(model: nn.Module, ids: Tensor, mask: Tensor) -> Tensor:
    """Return the logits [real tokens, V] of all rows, each run alone without its padding."""
    return torch.cat([model(row[m.bool()][None], use_cache=False).logits[0] for row, m in zip(ids, mask, strict=True)])


def as_generate_gives(mask: Tensor, fill: int) -> Tensor:
    """Return positions that count real tokens; releases of transformers differ in the positions of padding."""
    return (mask.cumsum(-1) - 1).masked_fill(mask == 0, fill)


@pytest.mark.few(75)
@pytest.mark.parametrize("positions", [None, 0, 1], ids=["no positions", "0 on padding", "1 on padding"])
@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("attention", ATTENTION)
@pytest.mark.parametrize("case", ATTENDING)
@torch.no_grad()
def test_padding_changes_nothing(case: str, attention: str, side: str, positions: int | None) -> None:
    model = made(case, attention=attention)
    ids, mask = padded(side)
    more = {} if positions is None else {"position_ids": as_generate_gives(mask, positions)}
    logits = model(ids, attention_mask=mask, **more).logits
    assert difference(logits[mask.bool()], rows_alone(model, ids, mask)) <= TOLERANCE
    assert logits.isfinite().all()


@pytest.mark.parametrize("case", ATTENDING)
@torch.no_grad()
def test_padding_that_is_not_masked_is_seen(case: str) -> None:
    model = made(case)
    ids, mask = padded("left")
    assert difference(model(ids).logits[mask.bool()], rows_alone(model, ids, mask)) > 0.1


@pytest.mark.few(40)
@pytest.mark.parametrize("given", [False, True], ids=["no positions", "positions"])
@pytest.mark.parametrize(("attention", "kind"), [("sdpa", "dynamic"), ("eager", "static"), ("sdpa", "static")])
@pytest.mark.parametrize("case", ATTENDING)
@torch.no_grad()
def test_left_padding_changes_nothing_in_a_cache(case: str, attention: str, kind: str, given: bool) -> None:
    model = made(case, attention=attention)
    ids, mask = padded("left")
    more = {"position_ids": as_generate_gives(mask, 1)} if given else {}
    for sizes in ([9, 1, 1, 3], [3, 11]):
        logits = in_chunks(model, ids, empty_cache(kind, model), sizes, mask, **more)
        assert difference(logits[mask.bool()], rows_alone(model, ids, mask)) <= TOLERANCE


@pytest.mark.parametrize("sizes", [[14], [6, 1, 7], [5, 4, 5]], ids=str)
@pytest.mark.parametrize("attention", ATTENTION)
@pytest.mark.parametrize("case", EVERYTHING_SEEN)
@torch.no_grad()
def test_padding_in_the_middle_moves_nothing_apart(case: str, attention: str, sizes: list[int]) -> None:
    model = made(case, attention=attention)
    ids, mask = tokens(2, 14), torch.ones(2, 14, dtype=torch.long)
    mask[0, 4:7] = mask[1, 2:3] = mask[1, 9:11] = 0
    for kind in ("dynamic", "static"):
        logits = in_chunks(model, ids, empty_cache(kind, model), sizes, mask)
        assert difference(logits[mask.bool()], rows_alone(model, ids, mask)) <= TOLERANCE


def chunked() -> list[Any]:
    """Return every chunking for some cases, and one of each kind for the others."""
    few = [("sdpa", "dynamic", CHUNKINGS[1]), ("eager", "static", CHUNKINGS[3]), ("sdpa", "static", CHUNKINGS[6])]
    many = list(product(ATTENTION, ["dynamic", "static"], CHUNKINGS))
    thorough = ["deepone, window", "qwen3, half window"]
    grid = [(case, *way) for case in ATTENDING for way in (many if case in thorough else few)]
    return [pytest.param(*row, id="-".join(map(str, row))) for row in grid]


@pytest.mark.few(22)
@pytest.mark.parametrize(("case", "attention", "kind", "sizes"), chunked())
@torch.no_grad()
def test_a_cache_filled_in_chunks_changes_nothing(case: str, attention: str, kind: str, sizes: list[int]) -> None:
    model, ids = made(case, attention=attention), tokens(2, 24)
    logits = in_chunks(model, ids, empty_cache(kind, model), sizes)
    assert difference(logits, made(case)(ids, use_cache=False).logits) <= TOLERANCE


@pytest.mark.parametrize("case", WINDOWED)
@torch.no_grad()
def test_the_cache_slides_with_the_window(case: str) -> None:
    model = made(case)
    cache = model(tokens(1, 20), use_cache=True)[CACHE]
    kinds = getattr(model.config, "layer_types", None) or ["sliding_attention"] * 2
    slides = [kind == "sliding_attention" for kind in kinds]
    assert list(cache.is_sliding) == slides
    assert any(slides)
    held = [layer.keys.shape[-2] for layer in cache.layers]
    assert held == [WINDOW - 1 if slide else 20 for slide in slides]  # the next query makes it five


@pytest.mark.parametrize("attention", ATTENTION)
@pytest.mark.parametrize("case", [case for case in WINDOWED if "half" not in case])
@torch.no_grad()
def test_a_window_is_a_band_of_the_mask(case: str, attention: str) -> None:
    ids = tokens(2, 24)
    near = torch.ones(24, 24, dtype=torch.bool).tril().triu(1 - WINDOW)
    band = near if attention == "sdpa" else torch.zeros(24, 24).masked_fill(~near, torch.finfo(torch.float32).min)
    unlimited = made(case, attention=attention, sliding_window=None)
    expected = unlimited(ids, attention_mask=band.expand(2, 1, 24, 24)).logits
    assert difference(made(case, attention=attention)(ids).logits, expected) <= TOLERANCE
    assert difference(unlimited(ids).logits, expected) > 1e-3


@pytest.mark.parametrize("cached", [False, True], ids=["at once", "cached"])
@pytest.mark.parametrize("attention", ATTENTION)
@pytest.mark.parametrize("case", ATTENDING)
@torch.no_grad()
def test_a_token_changes_later_logits_within_its_window_only(case: str, attention: str, cached: bool) -> None:
    model, ids = made(case, attention=attention), tokens(1, 24)
    other = ids.clone()
    other[0, 8] = 3 + (other[0, 8] - 2) % 90
    runs = []
    for row in (ids, other):
        cache = empty_cache("dynamic", model)
        runs.append(in_chunks(model, row, cache, [6, 1, 1, 1, 8, 7]) if cached else model(row).logits)
    changed = (runs[0] != runs[1]).any(-1)[0].nonzero().flatten().tolist()
    last = 8 + 2 * (WINDOW - 1) if case in WINDOWED and "half" not in case else 23  # two layers, one after the other
    assert changed == list(range(8, last + 1))


@pytest.mark.parametrize("pad", [False, True], ids=["full", "padded"])
@pytest.mark.parametrize("kind", ["dynamic", "static"])
@pytest.mark.parametrize("case", ATTENDING)
@torch.no_grad()
def test_rows_of_a_cache_can_be_exchanged(case: str, kind: str, pad: bool) -> None:
    model = made(case)
    ids, mask = padded("left") if pad else (tokens(3, 14), torch.ones(3, 14, dtype=torch.long))
    order = torch.tensor([2, 0, 0])
    cache = empty_cache(kind, model)
    in_chunks(model, ids[:, :8], cache, [7, 1], mask)
    cache.reorder_cache(order)
    after = torch.cat((ids[order, :8], ids[:, 8:]), dim=1)
    mask = torch.cat((mask[order, :8], torch.ones(3, 6, dtype=torch.long)), dim=1)
    rest = model(ids[:, 8:], attention_mask=mask, past_key_values=cache).logits
    expected = torch.zeros(3, 14, rest.shape[-1])
    expected[mask.bool()] = rows_alone(model, after, mask)
    assert difference(rest, expected[:, 8:]) <= TOLERANCE


@pytest.mark.parametrize("attention", ATTENTION)
@pytest.mark.parametrize("case", ATTENDING)
@torch.no_grad()
def test_a_mask_made_by_the_caller_is_used_as_it_is(case: str, attention: str) -> None:
    model, ids = made(case, attention=attention), tokens(1, 6)
    everything = torch.ones(1, 1, 6, 6, dtype=torch.bool)

    def given(mask: Tensor) -> Any:
        if attention == "eager":
            mask = torch.zeros(mask.shape).masked_fill(~mask, torch.finfo(torch.float32).min)
        return model(ids, attention_mask=mask).logits

    seen = everything.tril()
    if case in WINDOWED and "half" not in case:
        seen = seen.triu(1 - WINDOW)
    if "half" not in case:
        assert difference(given(seen), model(ids).logits) <= TOLERANCE
    assert difference(given(everything), model(ids).logits) > 1e-2


@torch.no_grad()
def test_a_mask_for_each_kind_of_layer() -> None:
    model, ids = made("qwen3, half window"), tokens(1, 12)
    full = torch.ones(1, 1, 12, 12, dtype=torch.bool).tril()
    band = full.triu(1 - WINDOW)
    masks = {"full_attention": full, "sliding_attention": band}
    assert difference(model(ids, attention_mask=masks).logits, model(ids).logits) <= TOLERANCE
    masks = {"full_attention": band, "sliding_attention": full}
    assert difference(model(ids, attention_mask=masks).logits, model(ids).logits) > 1e-3


@pytest.mark.parametrize("kind", ["dynamic", "static"])
@pytest.mark.parametrize("window", [None, WINDOW])
@torch.no_grad()
def test_the_distance_to_a_key_is_how_many_real_tokens_it_lies_behind(window: int | None, kind: str) -> None:
    model, ids = made("deepone", sliding_window=window), tokens(2, 14)
    cache = empty_cache(kind, model)
    in_chunks(model, ids[:, :9], cache, [8, 1])
    mask = torch.ones(2, 14, dtype=torch.long)
    mask[1, 10:12] = 0
    call: dict[str, Any] = {"cache": cache, "past_length": cache.get_seq_length(), "layer_idx": 0}
    embeds = model.get_input_embeddings()(ids[:, 9:])
    first = 0 if window is None else 9 - WINDOW + 1  # that is not forgotten
    for given, positions in ((None, [range(14)]), (mask, [range(14), [*range(10), 9, 9, *range(10, 12)]])):
        distance = token_positions(embeds, given, **call).distance()
        at = torch.tensor(positions)
        expected = at[:, None, None, first:] - at[:, None, 9:, None]
        assert torch.equal(distance[..., : 14 - first], expected.float())


@pytest.mark.parametrize("attention", ATTENTION)
@pytest.mark.parametrize("case", ATTENDING)
@torch.no_grad()
def test_one_row_of_position_ids_serves_the_whole_batch(case: str, attention: str) -> None:
    model, ids = made(case, attention=attention), tokens(2, 17)
    assert difference(model(ids, position_ids=torch.arange(17)[None]).logits, model(ids).logits) <= TOLERANCE


@pytest.mark.parametrize("case", ATTENDING)
@torch.no_grad()
def test_positions_that_begin_late_hide_nothing(case: str) -> None:
    model, ids = made(case), tokens(2, 17)
    late = model(ids, position_ids=torch.arange(17)[None] + 9).logits
    if case in RELATIVE:
        assert difference(late, model(ids).logits) <= TOLERANCE
    else:  # sinusoids are added to the tokens
        assert difference(late, model(ids).logits) > 0.1
        bare = made(case)
        bare.model.embed_positions = Shifted(bare.model.embed_positions, 9)
        assert difference(late, bare(ids).logits) <= TOLERANCE


class Shifted(nn.Module):
    """Wrap a module so that positions are shifted by a constant."""

    def __init__(self, positions: nn.Module, shift: int) -> None:
        super().__init__()
        self.positions, self.shift = positions, shift

    def forward(self, position_ids: Tensor) -> Tensor:
        return self.positions(position_ids + self.shift)
