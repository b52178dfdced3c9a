"""Few layers: each kind of layer remains."""

from __future__ import annotations

from typing import Any

from .sizes import Sizes

LAYERS = 3
_MOST_LAYERS = 6  # if there are more kinds of layers than LAYERS
_COUNTS = (
    "first_k_dense_replace", "num_dense_layers", "moe_layer_start_index", "num_kv_shared_layers",
    "n_layers_per_attn_res_block", "loop_layer_index_start",
)  # fmt: skip
_PERIODS = ("attn_layer_period", "expert_layer_period")  # every second layer instead of every eighth
_OFFSETS = ("attn_layer_offset", "expert_layer_offset")
_OTHER_DEPTHS = ("num_layers", "num_blocks")  # beside num_hidden_layers, or instead
_PARTS = ("n_input_layers", "n_recurrent_layers", "n_output_layers")  # their sum is the depth
BY_LAYER = "per_layer_config"  # changes to the configuration of some layers, by index


def shrink_layers(sizes: Sizes) -> None:
    """Reduce the depth. Lists with a value for each layer keep each combination of values once, in their order."""
    depth = sizes["num_hidden_layers"]
    lists = _lists(sizes, depth) if isinstance(depth, int) else {}
    rows = [str(row) for row in zip(*lists.values(), strict=True)]
    kinds = list(dict.fromkeys(rows))
    layers = min(depth or LAYERS, max(LAYERS, min(len(kinds), _MOST_LAYERS)))
    sizes.set("num_hidden_layers", layers)
    for name in _OTHER_DEPTHS:
        if sizes[name] and (depth is None or sizes[name] == depth):
            sizes.limit((name,), layers)
    if rows and layers < len(rows):
        first = [rows.index(kind) for kind in kinds[:layers]]
        chosen = first + first[-1:] * (layers - len(first))  # as for `max_window_layers`, which may be validated
        for name, values in lists.items():
            new = [values[i] for i in chosen]
            sizes.set(name, {i: one for i, one in enumerate(new) if one} if name == BY_LAYER else new)
        for name, old in sizes.indices().items():
            sizes.set(name, [new for new, i in enumerate(chosen) if i in old])
        if sizes["attention_types"]:  # of GPT-Neo, which computes attention_layers from it
            sizes.set("attention_types", [[[kind], 1] for kind in sizes.current("attention_layers")])
    if all(sizes[name] for name in _PARTS):
        for name, count in zip(_PARTS, (1, layers - 2, 1), strict=True):
            sizes.set(name, count)
    if (switch := sizes["max_window_layers"]) is not None:
        sizes.set("max_window_layers", layers if switch >= (depth or 0) else min(switch, 1))
    sizes.limit(_COUNTS, 1)
    sizes.limit(_PERIODS, 2)
    sizes.limit(_OFFSETS, 1)
    sizes.limit(("moe_layer_end_index",), layers - 1)
    sizes.limit(("loop_layer_index_end",), layers)
    sizes.limit(("decoder_layers", "encoder_layers"), layers)


def _lists(sizes: Sizes, depth: int) -> dict[str, list[Any]]:
    """Return the options with a value for each layer."""
    lists = sizes.lists(depth)
    if some := sizes[BY_LAYER]:
        by_index = {int(index): one for index, one in some.items()}
        lists[BY_LAYER] = [by_index.get(index) for index in range(depth)]
    return lists
