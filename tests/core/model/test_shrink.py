"""A configuration is made small and keeps its features; each user names what else must be kept."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import CONFIG_MAPPING, Gemma3Config, Gemma3TextConfig, SiglipVisionConfig

from forgather_core.model.shrink import HIDDEN, LAYERS, POSITIONS, VOCABULARY, WINDOW, Keep, shrunk, shrunk_config

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


@pytest.mark.parametrize("padding", [7, 0, None])
def test_other_token_ids_are_small(padding: int | None) -> None:
    made = small(pad_token_id=padding, vocab_size=2)
    assert (made["bos_token_id"], made["eos_token_id"]) == (2, [3])
    assert made["pad_token_id"] == (None if padding is None else 1)
    assert made["vocab_size"] == VOCABULARY


@pytest.mark.parametrize(("switch", "layers", "expected"), [(0, 8, 0), (5, 8, 1), (8, 8, 3), (9, 8, 3), (2, 2, 2)])
def test_a_switch_between_kinds_of_layers_stays_within_them(switch: int, layers: int, expected: int) -> None:
    assert small(max_window_layers=switch, num_hidden_layers=layers)["max_window_layers"] == expected


@given(kinds=st.lists(st.sampled_from(["full_attention", "sliding_attention", "linear_attention"]), min_size=1))
def test_every_kind_of_layer_remains(kinds: list[str]) -> None:
    made = small(layer_types=kinds, num_hidden_layers=len(kinds))
    assert len(made["layer_types"]) == made["num_hidden_layers"] == min(len(kinds), LAYERS)
    assert set(made["layer_types"]) == set(kinds)
    if len(kinds) > LAYERS:
        assert made["layer_types"] == sorted(made["layer_types"], key=kinds.index)
    else:
        assert made["layer_types"] == kinds


@given(
    layers=st.lists(
        st.tuples(
            st.sampled_from(["full_attention", "sliding_attention"]),
            st.sampled_from(["dense", "sparse"]),
            st.sampled_from([None, {"head_dim": 512}]),
        ),
        min_size=1,
        max_size=40,
    )
)
def test_combinations_of_lists_for_each_layer_remain(layers: list[tuple[str, str, Any]]) -> None:
    kinds, networks, changes = (list(values) for values in zip(*layers, strict=True))
    by_index = {str(index): one for index, one in enumerate(changes) if one}
    made = small(
        num_hidden_layers=len(layers), layer_types=kinds, mlp_layer_types=networks, per_layer_config=by_index or None
    )
    depth = made["num_hidden_layers"]
    by_index = {int(index): one for index, one in (made["per_layer_config"] or {}).items()}
    rows = list(zip(made["layer_types"], made["mlp_layer_types"], map(by_index.get, range(depth)), strict=True))
    assert depth <= 6
    missing = [row for row in layers if row not in rows]
    assert not missing or depth == 6
    assert all(row in layers for row in rows)


def test_experts_and_latent_attention_are_small_and_valid() -> None:
    made = small(
        n_routed_experts=256, num_experts_per_tok=8, n_group=8, topk_group=4, moe_intermediate_size=2048,
        q_lora_rank=1536, kv_lora_rank=512, qk_nope_head_dim=128, qk_rope_head_dim=64, qk_head_dim=192, v_head_dim=128,
        head_dim=64, first_k_dense_replace=3,
    )  # fmt: skip
    assert (made["n_routed_experts"], made["num_experts_per_tok"], made["n_group"], made["topk_group"]) == (8, 2, 2, 1)
    assert made["qk_head_dim"] == made["qk_nope_head_dim"] + made["qk_rope_head_dim"]
    assert made["head_dim"] == made["qk_rope_head_dim"]
    assert made["first_k_dense_replace"] == 1
    assert made["moe_intermediate_size"] < 2048


@pytest.mark.parametrize(
    ("heads", "size", "expand"),
    [("mamba_n_heads", "mamba_d_head", "mamba_expand"), ("n_mamba_heads", "mamba_headdim", "mamba_expand")],
)
def test_heads_of_recurrent_layers_fill_the_expanded_width(heads: str, size: str, expand: str) -> None:
    made = small(**{heads: 128, size: 64, expand: 2})
    assert made[heads] * made[size] == 2 * made["hidden_size"]


def test_a_part_of_each_head_is_rotated() -> None:
    made = small(hidden_size=4096, num_attention_heads=16, num_key_value_heads=..., head_dim=..., rotary_dim=64)
    assert made["rotary_dim"] * 4 == made["hidden_size"] // made["num_attention_heads"]


@pytest.mark.parametrize("keep", [(), ("heads",)])
def test_more_key_heads_than_query_heads_as_in_latent_attention(keep: tuple[Keep, ...]) -> None:
    made = small(keep, num_attention_heads=8, num_key_value_heads=40)
    assert made["num_attention_heads"] == made["num_key_value_heads"] == 2


def test_lists_of_sizes_are_small() -> None:
    made = small(intermediate_size=[8192] * 16 + [16384] * 16)
    assert len(made["intermediate_size"]) == made["num_hidden_layers"]
    assert max(made["intermediate_size"]) < 1000


def test_contained_configurations_are_small() -> None:
    config = Gemma3Config(text_config=Gemma3TextConfig(), vision_config=SiglipVisionConfig())
    made = Gemma3Config.from_dict(config.to_dict() | shrunk_config(config, keep=()))
    assert made.text_config.hidden_size < config.text_config.hidden_size
    assert made.text_config.vocab_size == VOCABULARY
    assert made.vision_config.hidden_size < config.vision_config.hidden_size


def test_sizes_of_some_layers_are_small() -> None:
    sizes = {"num_attention_heads": 64, "num_key_value_heads": 64, "head_dim": 256, "moe_intermediate_size": 1536}
    kinds = ["full_attention", "sliding_attention"] * 16
    made = small(layer_types=kinds, per_layer_config=dict.fromkeys(range(1, 32, 2), sizes))
    assert made["layer_types"] == ["full_attention", "sliding_attention", "sliding_attention"]
    assert made["per_layer_config"].keys() == {1, 2}
    layer = made["per_layer_config"][1]
    assert layer.keys() == sizes.keys()
    assert (layer["num_attention_heads"], layer["num_key_value_heads"]) == (2, 2)
    assert layer["moe_intermediate_size"] < 2 * made["hidden_size"] + 9


def test_indices_of_layers_follow_their_kinds() -> None:
    kinds = (["linear_attention"] * 5 + ["hybrid"]) * 4 + ["linear_attention"] * 8
    made = small(layer_types=kinds, hybrid_layer_ids=[i for i, kind in enumerate(kinds) if kind == "hybrid"])
    assert made["layer_types"] == ["linear_attention", "hybrid", "hybrid"]
    assert made["hybrid_layer_ids"] == [1, 2]


def test_blocks_that_a_configuration_writes_are_no_layers() -> None:
    config = CONFIG_MAPPING["dory"]()
    assert config.to_dict()["num_hidden_layers"] == 2 * config.num_hidden_layers
    made = type(config).from_dict(config.to_dict() | shrunk_config(config, keep=()))
    assert (made.num_hidden_layers, made.layer_types[:2]) == (LAYERS, ["sliding_attention", "full_attention"])


def test_names_of_the_configuration_are_used() -> None:
    names = {"hidden_size": "n_embd", "num_attention_heads": "n_head", "num_hidden_layers": "n_layer"}
    config = {"n_embd": 768, "n_head": 12, "n_layer": 12, "n_inner": None}
    assert shrunk(config, names, keep=EVERY) == {"n_embd": 128, "n_head": 2, "n_layer": 3}


def test_heads_that_index_keys_are_so_many_that_one_is_active() -> None:
    assert small(index_n_heads=64)["index_n_heads"] == 32
    assert small(index_n_heads=4)["index_n_heads"] == 4


def test_depths_and_vocabularies_under_other_names_follow() -> None:
    made = small(num_hidden_layers=32, num_blocks=32, num_layers=5)
    assert (made["num_hidden_layers"], made["num_blocks"], made["num_layers"]) == (3, 3, 5)
    made = small(vocab_size=50_000, vocab_size_per_layer_input=262_144, shape_vocab_size=90)
    assert (made["vocab_size_per_layer_input"], made["shape_vocab_size"]) == (made["vocab_size"], 90)


def test_without_num_hidden_layers_another_depth_is_small() -> None:
    config = {name: value for name, value in LARGE.items() if name != "num_hidden_layers"} | {"num_layers": 28}
    assert shrunk(config, {}, keep=())["num_layers"] == LAYERS
