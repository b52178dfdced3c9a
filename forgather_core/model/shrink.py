"""Shrink a configuration while keeping all of its features."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

LAYERS, HIDDEN, WINDOW, VOCABULARY, POSITIONS = 3, 64, 6, 300, 64
_LARGEST_HEAD = 32


def shrunk(config: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
    """Return the changes that make a model of a configuration small: widths, depth, vocabulary, windows.

    Grouped heads stay grouped, a head size that is independent of the hidden size stays independent, windows are
    shorter than texts of a few tokens, and each kind of layer remains. There are always enough positions for the texts.

    Args:
        config: The configuration as plain data.
        names: Maps Hugging Face's usual names to this configuration's, where they differ (`attribute_map`).

    Returns:
        New values, by the configuration's own names.
    """
    new: dict[str, Any] = {}

    def get(name: str) -> Any:
        return config.get(names.get(name, name))

    def put(name: str, value: Any) -> None:
        if names.get(name, name) in config:
            new[names.get(name, name)] = value

    layers = min(get("num_hidden_layers") or LAYERS, LAYERS)
    put("num_hidden_layers", layers)
    if get("layer_types"):
        put("layer_types", _kinds(get("layer_types"), layers))
    if (switch := get("max_window_layers")) is not None:
        put("max_window_layers", layers if switch >= (get("num_hidden_layers") or 0) else min(switch, 1))
    if get("sliding_window") is not None:
        put("sliding_window", min(get("sliding_window"), WINDOW))
    if get("max_position_embeddings") is not None:
        put("max_position_embeddings", max(get("max_position_embeddings"), POSITIONS))
    special = [get(f"{name}_token_id") for name in ("bos", "eos", "pad", "unk")]
    ids = [i for item in special for i in (item if isinstance(item, list) else [item]) if isinstance(i, int)]
    put("vocab_size", min(get("vocab_size") or VOCABULARY, max([*ids, 0]) + VOCABULARY))
    _shrink_widths(get, put)
    return new


def _shrink_widths(get: Any, put: Any) -> None:
    heads, hidden = get("num_attention_heads"), get("hidden_size")
    if hidden is None:
        return
    if heads is None:
        put("hidden_size", min(hidden, HIDDEN))
        width = min(hidden, HIDDEN)
    else:
        groups = get("num_key_value_heads") or heads
        grouped = heads // groups
        key_heads = min(groups, 2)
        few = key_heads * min(grouped, 2)
        size = get("head_dim") or hidden // heads
        rope = get("rope_parameters") or get("rope_scaling") or {}
        by_dimension = any(isinstance(value, list) for value in rope.values())  # factors per dimension fix the size
        small = size if by_dimension else min(size, _LARGEST_HEAD)
        independent = heads * size != hidden
        width = few * small + (small if independent else 0)
        put("num_attention_heads", few)
        if get("num_key_value_heads") is not None:
            put("num_key_value_heads", key_heads)
        if get("head_dim") is not None:
            put("head_dim", small)
        put("hidden_size", width)
    if get("intermediate_size") is not None:
        put("intermediate_size", min(get("intermediate_size"), 2 * width + 8))


def _kinds(kinds: list[str], layers: int) -> list[str]:
    """Return a list of `layers` kinds with each kind once, in order of first occurrence; the last one is repeated.

    This matches `max_window_layers`, which some configurations validate.
    """
    different = list(dict.fromkeys(kinds))[:layers]
    return different + different[-1:] * (layers - len(different))
