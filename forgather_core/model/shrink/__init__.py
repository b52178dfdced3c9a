"""Shrink a configuration while keeping its features."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, Literal

from .heads import HIDDEN, shrink_heads
from .layers import BY_LAYER, LAYERS, shrink_layers
from .limits import WINDOW, shrink_others, shrink_windows
from .sizes import Sizes

__all__ = ["HIDDEN", "LAYERS", "POSITIONS", "VOCABULARY", "WINDOW", "Keep", "plain_values", "shrunk", "shrunk_config"]

VOCABULARY, POSITIONS = 300, 64
Keep = Literal["heads", "positions", "token_ids"]
# Tables for other properties of tokens than their ids, or for a second embedding of the ids.
_OTHER_VOCABULARIES = ("vocab_size_per_layer_input", "pronunciation_vocab_size", "shape_vocab_size")
_SPECIAL = {"pad_token_id": 1, "bos_token_id": 2, "eos_token_id": 3, "unk_token_id": 4}


def shrunk(config: Mapping[str, Any], names: Mapping[str, str], *, keep: Collection[Keep]) -> dict[str, Any]:
    """Return changes to a configuration that make its model small: widths, depth, vocabulary, windows, experts.

    Grouped heads stay grouped, windows are shorter than texts of a few tokens, and each kind of layer remains.

    Args:
        config: The configuration as plain data.
        names: Maps Hugging Face's usual names to this configuration's, where they differ (`attribute_map`).
        keep: Features to keep.
            "heads": The head size and the number of query heads per key/value head. Otherwise both are reduced, and a
            head size that is independent of the hidden size stays independent.
            "positions": The maximum position. Otherwise it is at least 64.
            "token_ids": The ids of the special tokens. Otherwise they are 1 to 4.

    Returns:
        New values, by the configuration's own names. All other options are kept.
    """
    sizes = Sizes(config, names)
    shrink_layers(sizes)
    shrink_windows(sizes)
    if "positions" not in keep and sizes["max_position_embeddings"] is not None:
        sizes.set("max_position_embeddings", max(sizes["max_position_embeddings"], POSITIONS))
    _shrink_vocabulary(sizes, keep=keep)
    width = shrink_heads(sizes, keep="heads" in keep)
    if width is not None:
        shrink_others(sizes, width, keep_heads="heads" in keep)
        _shrink_by_layer(sizes, width, keep_heads="heads" in keep)
    return sizes.changes


def _shrink_by_layer(sizes: Sizes, width: int, *, keep_heads: bool) -> None:
    """Reduce the sizes of layers with heads of their own; another size alone stays, since it must differ."""
    small = dict(sizes.current(BY_LAYER) or {})
    for index, values in small.items():
        if "num_attention_heads" not in values:
            continue
        layer = sizes.with_changes(values)
        shrink_windows(layer)
        shrink_heads(layer, keep=keep_heads)
        shrink_others(layer, width, keep_heads=keep_heads)
        small[index] = {name: layer.current(name) for name in values}
    if small:
        sizes.set(BY_LAYER, small)


def plain_values(config: Any) -> dict[str, Any]:
    """Return a configuration as plain data, with the depth as its model has it.

    `to_dict` of some classes writes the blocks of layers in place of layers.
    """
    content: dict[str, Any] = config.to_dict()
    own = vars(config)
    return {name: own.get(name, value) if type(value) in (int, list) else value for name, value in content.items()}


def shrunk_config(config: Any, *, keep: Collection[Keep]) -> dict[str, Any]:
    """Return changes that make the model of a configuration small, with those of the configurations that it contains.

    Args:
        config: The configuration, a `PreTrainedConfig`.
        keep: Features to keep, as for `shrunk`.
    """
    changes = shrunk(plain_values(config), config.attribute_map, keep=keep)
    for name in config.sub_configs:
        if (part := getattr(config, name, None)) is not None:
            changes[name] = part.to_dict() | shrunk_config(part, keep=keep)
    return changes


def _shrink_vocabulary(sizes: Sizes, *, keep: Collection[Keep]) -> None:
    if "token_ids" in keep:
        special = [sizes[name] for name in _SPECIAL]
        ids = [i for item in special for i in (item if isinstance(item, list) else [item]) if isinstance(i, int)]
        sizes.set("vocab_size", min(sizes["vocab_size"] or VOCABULARY, max([*ids, 0]) + VOCABULARY))
    else:
        for name, small in _SPECIAL.items():
            if (value := sizes[name]) is not None:
                sizes.set(name, [small] if isinstance(value, list) else small)
        for name in ("vocab_size", "decoder_vocab_size", "unpadded_vocab_size"):
            sizes.set(name, VOCABULARY)
    sizes.limit(_OTHER_VOCABULARIES, sizes.current("vocab_size") or VOCABULARY)
