"""Compare the logits of a small model with those of the equivalent transformers class, with the same weights."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from .shrink import Keep

if TYPE_CHECKING:
    from torch import Tensor, nn

TOLERANCE = 1e-4  # float32, relative to the root mean square of the logits
LENGTH = 24  # tokens, several times a shrunk window
KEPT: tuple[Keep, ...] = ("heads", "positions")  # RoPE and the interpretation of head options depend on them


def logits_difference(model: nn.Module, native: nn.Module) -> float:
    """Give both models the same random weights, and return the largest difference of their logits.

    The models are compared without a mask, with padding, and at positions around each length at which RoPE may change:
    below, across and far beyond it. Positions ascend, because transformers' dynamic RoPE is stateful.

    Args:
        model: A small model with a configuration.
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
    config: Any = model.config
    ids = torch.randint(2, config.vocab_size, (2, LENGTH), generator=torch.Generator().manual_seed(0))
    differences = [0.0]
    with torch.no_grad():
        for inputs in _cases(ids, config):
            a, b = (m.eval()(ids, use_cache=False, **inputs).logits[:, 5:] for m in (model, native))
            differences.append(relative_difference(a, b))
    return float(torch.tensor(differences).max())  # unlike Python's, torch's maximum keeps a NaN


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
