"""Shrink a configuration while keeping its features."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any, Literal

LAYERS, HIDDEN, WINDOW, VOCABULARY, POSITIONS = 3, 64, 6, 300, 64
Keep = Literal["heads", "positions", "token_ids"]
_HEAD, _RATIO = 32, 2
_KEPT_HEAD, _KEPT_RATIO = 1024, 8  # far above the values of usual models; they limit the memory of a copy


def shrunk(config: Mapping[str, Any], names: Mapping[str, str], *, keep: Collection[Keep]) -> dict[str, Any]:
    """Return changes to a configuration that make its model small: widths, depth, vocabulary, windows.

    Grouped heads stay grouped, windows are shorter than texts of a few tokens, and each kind of layer remains.

    Args:
        config: The configuration as plain data.
        names: Maps Hugging Face's usual names to this configuration's, where they differ (`attribute_map`).
        keep: Features to keep.
            "heads": The head size and the number of query heads per key/value head. Otherwise both are reduced, and a
            head size that is independent of the hidden size stays independent.
            "positions": The maximum position. Otherwise it is at least 64.
            "token_ids": The special tokens. Otherwise padding is token 1, and there are no other special tokens.

    Returns:
        New values, by the configuration's own names. All other options are kept.
    """
    new: dict[str, Any] = {}

    def get(name: str) -> Any:
        return config.get(names.get(name, name))

    def set_value(name: str, value: Any) -> bool:
        own = names.get(name, name)
        if own in config:
            new[own] = value
        return own in config

    layers = min(get("num_hidden_layers") or LAYERS, LAYERS)
    set_value("num_hidden_layers", layers)
    if get("layer_types"):
        set_value("layer_types", _few_layer_types(get("layer_types"), layers))
    if (switch := get("max_window_layers")) is not None:
        set_value("max_window_layers", layers if switch >= (get("num_hidden_layers") or 0) else min(switch, 1))
    if get("sliding_window") is not None:
        set_value("sliding_window", min(get("sliding_window"), WINDOW))
    if "positions" not in keep and get("max_position_embeddings") is not None:
        set_value("max_position_embeddings", max(get("max_position_embeddings"), POSITIONS))
    if "token_ids" in keep:
        special = [get(f"{name}_token_id") for name in ("bos", "eos", "pad", "unk")]
        ids = [i for item in special for i in (item if isinstance(item, list) else [item]) if isinstance(i, int)]
        set_value("vocab_size", min(get("vocab_size") or VOCABULARY, max([*ids, 0]) + VOCABULARY))
    else:
        set_value("bos_token_id", None)
        set_value("eos_token_id", None)
        set_value("pad_token_id", None if get("pad_token_id") is None else 1)
        set_value("vocab_size", VOCABULARY)
    width = _shrink_heads(get, set_value, keep="heads" in keep)
    if width is not None and get("intermediate_size") is not None:
        set_value("intermediate_size", min(get("intermediate_size"), 2 * width + 8))
    return new


def _shrink_heads(get: Callable[[str], Any], set_value: Callable[[str, Any], bool], *, keep: bool) -> int | None:
    """Set the number and size of heads and the hidden size. Return the new hidden size, or None if there is none."""
    heads, hidden = get("num_attention_heads"), get("hidden_size")
    width: int
    if hidden is None:
        return None
    if heads is None:
        width = min(hidden, HIDDEN)
    else:
        kv_heads = get("num_key_value_heads") or heads
        few_kv_heads = min(kv_heads, 2)
        few_heads = few_kv_heads * min(heads // kv_heads, _KEPT_RATIO if keep else _RATIO)
        size = get("head_dim") or hidden // heads
        set_value("num_attention_heads", few_heads)
        if get("num_key_value_heads") is not None:
            set_value("num_key_value_heads", few_kv_heads)
        rope = get("rope_parameters") or get("rope_scaling") or {}
        by_dimension = any(isinstance(value, list) for value in rope.values())  # factors per dimension fix the size
        small = min(size, _KEPT_HEAD) if keep else size if by_dimension else min(size, _HEAD, HIDDEN // few_heads)
        if keep and set_value("head_dim", small):
            width = 8 * few_heads  # independent of the head size, which may be large
        else:
            width = few_heads * small + (small if heads * size != hidden else 0)  # an independent head size stays so
            if get("head_dim") is not None:
                set_value("head_dim", small)
    set_value("hidden_size", width)
    return width


def _few_layer_types(kinds: list[str], layers: int) -> list[str]:
    """Return a list of `layers` kinds with each kind once, in order of first occurrence; the last one is repeated.

    This matches `max_window_layers`, which some configurations validate.
    """
    different = list(dict.fromkeys(kinds))[:layers]
    return different + different[-1:] * (layers - len(different))
