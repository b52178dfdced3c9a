"""Compare a model with the equivalent transformers class, on small copies with the same weights."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor, nn

TOLERANCE = 1e-4  # float32, relative to the root mean square of the logits
LENGTH = 24  # tokens, several times a shrunk window
_LAYERS, _WINDOW, _VOCABULARY = 3, 7, 64
_SHARED, _HEAD = 8, 1024  # far above usual models; they limit the memory of a copy


def shrunk_values(values: Mapping[str, Any]) -> dict[str, Any]:
    """Reduce the sizes in a configuration; other values (RoPE, head_dim, ties, eps) are kept.

    Args:
        values: Values by Hugging Face's option names.

    Returns:
        The values that change.
    """
    layers = min(values["num_hidden_layers"], _LAYERS)
    small: dict[str, Any] = {
        "intermediate_size": 40,
        "num_hidden_layers": layers,
        "vocab_size": _VOCABULARY,
        "bos_token_id": None,
        "eos_token_id": None,
        "pad_token_id": None if values.get("pad_token_id") is None else 1,
    }
    if heads := values.get("num_attention_heads"):
        shared = heads // (values.get("num_key_value_heads") or heads)  # query heads per key/value head
        groups, shared = min(heads // shared, 2), min(shared, _SHARED)
        small |= {
            "num_attention_heads": groups * shared,
            "num_key_value_heads": groups,
            "head_dim": min(values.get("head_dim") or values["hidden_size"] // heads, _HEAD),
            "hidden_size": 8 * groups * shared,
        }
    if values.get("sliding_window") is not None:
        small["sliding_window"] = min(values["sliding_window"], _WINDOW)
    if values.get("max_window_layers"):
        small["max_window_layers"] = 1 if values["max_window_layers"] < values["num_hidden_layers"] else _LAYERS
    if kinds := values.get("layer_types"):
        different = list(dict.fromkeys(kinds))[:layers]  # each kind once, then the last kind for the other layers
        small["layer_types"] = different + different[-1:] * (layers - len(different))
    return small


def logits_difference(model: nn.Module, native: nn.Module) -> float:
    """Give both models the same random weights, and return the largest difference of their logits.

    Rows are tested without a mask, with padding, and at positions that end before, at, across and far beyond every
    length at which RoPE may change, from the shortest to the longest, because transformers' dynamic RoPE is stateful.

    Args:
        model: A small model; its configuration has the lengths.
        native: A model of transformers' class.

    Returns:
        The difference relative to the root mean square of the logits; NaN if a logit is not finite.

    Raises:
        RuntimeError: The names or shapes of their weights differ.
    """
    import torch

    from .difference import relative_difference
    from .randomize import randomize_weights

    randomize_weights(model, seed=0)
    native.load_state_dict(model.state_dict())
    ids = torch.randint(2, _VOCABULARY, (2, LENGTH), generator=torch.Generator().manual_seed(0))
    worst = [0.0]
    with torch.no_grad():
        for more in _cases(ids, model.config):
            a, b = (m.eval()(ids, use_cache=False, **more).logits[:, 5:] for m in (model, native))
            worst.append(relative_difference(a, b))
    return float(torch.tensor(worst).max())  # unlike Python's, torch's maximum keeps a NaN


def _cases(ids: Tensor, config: Any) -> Iterator[dict[str, Tensor]]:
    import torch

    yield {}
    padded = torch.ones_like(ids)
    padded[0, :5] = 0
    yield {"attention_mask": padded}
    rope = getattr(config, "rope_parameters", None) or {}
    lengths = (getattr(config, "max_position_embeddings", None), rope.get("original_max_position_embeddings"))
    limits = [length for length in lengths if length is not None]
    ends = {end for limit in limits for end in (limit, limit + 1, limit + LENGTH // 2, 2 * limit)}
    for end in sorted(end for end in ends if end >= LENGTH):
        yield {"position_ids": torch.arange(end - LENGTH, end).expand(2, -1)}
