"""Signal propagation: the loss of a new model, and activations and gradients over many layers.

Loss. For an unpredictable next token, the expected loss is logsumexp(z) - mean(z) of the logits z: ln V if they are
equal, ln V + v/2 if they are normal with variance v. Logits with a standard deviation of up to 2, which usual
initializations give for hidden sizes up to 10,000, raise the loss by at most 2. If head and embedding are tied, the
residual stream carries each token to the output, where the model predicts it; z excludes that token's own logit.

Layers. Independent residual branches add up to sqrt(L) over L layers, and to L if all of them point in the same
direction; a norm after each branch keeps the size constant. A ratio above L, or below 1/L, means that sizes grow or
decay by a factor per layer.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from ..definitions.check import Measured, check, expect
from .shared.depth import of_depth
from .shared.layers import layers_of
from .shared.model_under_test import ModelUnderTest

LAYERS = 16
_MAX_EXCESS_LOSS = 2.0


@check(
    "signal-propagation",
    cause="residual branches that start too large or too small, or a norm that is missing or doubled",
)
def signal_propagation(subject: ModelUnderTest) -> Iterator[Measured]:
    """The loss of a new model is near ln V, and neither activations nor gradients vanish or explode over its depth."""
    model = subject.fresh_model() if subject.full else subject.fresh_model_of(of_depth(subject, LAYERS))
    model.eval()
    layers = layers_of(model)
    outputs: list[Tensor] = []
    for layer in layers:
        layer.register_forward_hook(lambda _, __, out: outputs.append(out[0] if isinstance(out, tuple | list) else out))
    if not subject.full:
        what = f"num_hidden_layers {LAYERS} gives {LAYERS} layers"
        yield expect(what, len(layers) == LAYERS, failure=f"num_hidden_layers {LAYERS} gives {len(layers)} layers")
    text, following = subject.tokens(4), subject.tokens(4, seed=1)
    logits = model(text, use_cache=False).logits
    # The initial weights of other classes may be made for another width than that of the small copy.
    bounded = subject.made_by_forgather or subject.full
    if bounded:
        yield _excess_loss(model, text, logits.detach())
    nn.functional.cross_entropy(logits.flatten(0, 1), following.flatten()).backward()  # type: ignore[no-untyped-call]
    sizes = [float(state.detach().square().mean().sqrt()) for state in outputs]
    yield from _check_sizes("activations", sizes, last_first=True, bounded=bounded)
    # Gradients of weights, because those of hidden states are freed. A layer without trainable weights has none.
    yield from _check_sizes("gradients", [_gradient_size(layer) for layer in layers], last_first=False, bounded=bounded)


def _excess_loss(model: Any, text: Tensor, logits: Tensor) -> Measured:
    """Measure the distance of the expected loss above ln V."""
    head, embedding = model.get_output_embeddings(), model.get_input_embeddings()
    tied = head is not None and head.weight is embedding.weight
    wide = logits.double()
    if tied:
        wide = wide.scatter(-1, text[..., None], -math.inf)
    known = wide.isfinite()
    mean = wide.where(known, torch.zeros(())).sum(-1) / known.sum(-1)
    loss = float((wide.logsumexp(-1) - mean).mean())
    base = math.log(int(known[0, 0].sum()))
    return Measured(f"expected loss {loss:.2f}, above ln V = {base:.2f}", loss - base, _MAX_EXCESS_LOSS, "logits")


def _gradient_size(layer: nn.Module) -> float:
    gradients = [p.grad for p in layer.parameters() if p.grad is not None and p.dim() >= 2]
    count = sum(g.numel() for g in gradients)
    return math.sqrt(sum(float(g.double().square().sum()) for g in gradients) / count) if count else math.nan


def _check_sizes(what: str, sizes: list[float], *, last_first: bool, bounded: bool) -> Iterator[Measured]:
    # The first size is that of the first layer's output, which includes the embeddings.
    bad = next((i for i, size in enumerate(sizes) if not 0 < size < math.inf), None)
    yield expect(f"{what} are finite and not 0", bad is None, f"layer {bad}")
    if bad is not None or not bounded:
        return
    ratio = sizes[-1] / sizes[0] if last_first else sizes[0] / sizes[-1]
    ends = "last layer to first" if last_first else "first layer to last"
    limit = math.log(max(len(sizes), 2))
    yield Measured(f"{what}, logarithm of the ratio of the {ends}, {ratio:.3g}", abs(math.log(ratio)), limit)
