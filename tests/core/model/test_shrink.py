"""A configuration is made small and keeps its features; each user names what else must be kept."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from forgather_core.model.shrink import HIDDEN, LAYERS, POSITIONS, VOCABULARY, WINDOW, Keep, shrunk

LARGE: dict[str, Any] = {
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "vocab_size": 128_256,
    "max_position_embeddings": 8192,
    "sliding_window": 4096,
    "bos_token_id": 3,
    "eos_token_id": [5, 9],
    "pad_token_id": 7,
    "rms_norm_eps": 1e-5,
}
EVERY: tuple[Keep, ...] = ("heads", "positions", "token_ids")


def small(keep: tuple[Keep, ...] = (), **more: Any) -> dict[str, Any]:
    """Return the complete small configuration, without the options that are `...` in `more`."""
    config = {name: value for name, value in (LARGE | more).items() if value is not ...}
    return config | shrunk(config, {}, keep=keep)


@pytest.mark.parametrize("keep", [(), EVERY])
def test_only_sizes_change(keep: tuple[Keep, ...]) -> None:
    made = small(keep)
    assert made.keys() == LARGE.keys(), "no option is added"
    assert (made["num_hidden_layers"], made["sliding_window"]) == (LAYERS, WINDOW)
    assert made["rms_norm_eps"] == 1e-5
    assert made["hidden_size"] * made["intermediate_size"] < 50_000


def test_heads_are_small_unless_they_are_kept() -> None:
    made = small()
    assert (made["num_attention_heads"], made["num_key_value_heads"], made["head_dim"]) == (4, 2, 16)
    assert made["hidden_size"] == HIDDEN
    kept = small(("heads",))
    assert (kept["num_attention_heads"], kept["num_key_value_heads"], kept["head_dim"]) == (8, 2, 128)
    assert kept["hidden_size"] == 8 * 8, "the size of a head does not enlarge the other weights"


@given(groups=st.integers(1, 64), ratio=st.integers(1, 8), size=st.integers(1, 1024), derived=st.booleans())
def test_kept_heads_have_their_ratio_and_size(groups: int, ratio: int, size: int, derived: bool) -> None:
    heads = groups * ratio
    made = small(
        ("heads",),
        num_attention_heads=heads,
        num_key_value_heads=groups,
        hidden_size=heads * size,
        head_dim=None if derived else size,
    )
    assert made["num_attention_heads"] == ratio * made["num_key_value_heads"]
    assert made["num_key_value_heads"] == min(groups, 2)
    assert made["head_dim"] == size
    assert made["hidden_size"] % made["num_attention_heads"] == 0


@given(groups=st.integers(1, 64), ratio=st.integers(1, 8), size=st.integers(1, 512), extra=st.integers(0, 9))
def test_small_heads_stay_grouped_and_independent(groups: int, ratio: int, size: int, extra: int) -> None:
    heads = groups * ratio
    made = small(num_attention_heads=heads, num_key_value_heads=groups, hidden_size=heads * size + extra, head_dim=size)
    few, key_heads = made["num_attention_heads"], made["num_key_value_heads"]
    assert few % key_heads == 0
    assert (few > key_heads, key_heads > 1) == (ratio > 1, groups > 1)
    assert made["head_dim"] == min(size, 32, HIDDEN // few)
    assert (made["hidden_size"] == few * made["head_dim"]) == (extra == 0)


@pytest.mark.parametrize("keep", [(), ("heads",)])
def test_without_head_dim_the_hidden_size_gives_the_head_size(keep: tuple[Keep, ...]) -> None:
    made = small(keep, head_dim=...)
    assert made["hidden_size"] == made["num_attention_heads"] * (128 if keep else 16)


def test_many_query_heads_and_large_heads_are_limited_although_kept() -> None:
    made = small(("heads",), num_attention_heads=64, num_key_value_heads=1, head_dim=4096)
    assert (made["num_attention_heads"], made["num_key_value_heads"], made["head_dim"]) == (8, 1, 1024)


def test_factors_for_each_dimension_fix_the_head_size() -> None:
    made = small(rope_parameters={"rope_type": "longrope", "short_factor": [1.0] * 64, "long_factor": [2.0] * 64})
    assert made["head_dim"] == 128


def test_without_heads_or_without_a_hidden_size() -> None:
    assert small(num_attention_heads=..., head_dim=...)["hidden_size"] == HIDDEN
    without = small(hidden_size=...)
    assert (without["num_attention_heads"], without["intermediate_size"]) == (32, 14336)


@pytest.mark.parametrize(("positions", "enough"), [(16, POSITIONS), (POSITIONS, POSITIONS), (8192, 8192)])
def test_there_are_enough_positions_unless_they_are_kept(positions: int, enough: int) -> None:
    assert small(max_position_embeddings=positions)["max_position_embeddings"] == enough
    assert small(("positions",), max_position_embeddings=positions)["max_position_embeddings"] == positions


@pytest.mark.parametrize(
    ("ids", "vocabulary"),
    [
        ({}, 9 + VOCABULARY),
        ({"eos_token_id": 100_000}, 100_000 + VOCABULARY),
        ({"eos_token_id": 128_255}, 128_256),
        ({"vocab_size": 40}, 40),
        ({"bos_token_id": None, "eos_token_id": None, "pad_token_id": None}, VOCABULARY),
    ],
)
def test_kept_token_ids_are_in_the_vocabulary(ids: dict[str, Any], vocabulary: int) -> None:
    made = small(("token_ids",), **ids)
    assert made["vocab_size"] == vocabulary
    assert [made[name] for name in LARGE if name.endswith("_token_id")] == [
        (LARGE | ids)[name] for name in LARGE if name.endswith("_token_id")
    ]


@pytest.mark.parametrize(("padding", "expected"), [(7, 1), (0, 1), (None, None)])
def test_other_token_ids_are_dropped(padding: int | None, expected: int | None) -> None:
    made = small(pad_token_id=padding, vocab_size=2)
    assert (made["bos_token_id"], made["eos_token_id"], made["pad_token_id"]) == (None, None, expected)
    assert made["vocab_size"] == VOCABULARY


@pytest.mark.parametrize(("switch", "layers", "expected"), [(0, 8, 0), (5, 8, 1), (8, 8, 3), (9, 8, 3), (2, 2, 2)])
def test_a_switch_between_kinds_of_layers_stays_within_them(switch: int, layers: int, expected: int) -> None:
    assert small(max_window_layers=switch, num_hidden_layers=layers)["max_window_layers"] == expected


@given(kinds=st.lists(st.sampled_from(["full_attention", "sliding_attention", "linear_attention"]), min_size=1))
def test_every_kind_of_layer_remains(kinds: list[str]) -> None:
    made = small(layer_types=kinds, num_hidden_layers=len(kinds))
    assert len(made["layer_types"]) == made["num_hidden_layers"] == min(len(kinds), LAYERS)
    assert set(made["layer_types"]) == set(kinds)
    assert made["layer_types"] == sorted(made["layer_types"], key=kinds.index)


def test_names_of_the_configuration_are_used() -> None:
    names = {"hidden_size": "n_embd", "num_attention_heads": "n_head", "num_hidden_layers": "n_layer"}
    config = {"n_embd": 768, "n_head": 12, "n_layer": 12, "n_inner": None}
    assert shrunk(config, names, keep=EVERY) == {"n_embd": 128, "n_head": 2, "n_layer": 3}
