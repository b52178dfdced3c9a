"""Depth: how a fresh model begins, and what becomes of signals and gradients over many layers.

Loss. For a next token that nothing tells of, the expected loss is logsumexp(z) - mean(z) of the logits z: ln V where
they are equal, ln V + v/2 where they are normal with variance v. Logits with a standard deviation of up to 2, which is
what usual spreads give for hidden sizes up to 10,000, are at most 2 above ln V. Where head and embedding are one,
residuals carry a token to the end, and it is expected again; the logit of the token itself is left out of z.

Layers. Residual branches that do not know of each other add up to sqrt(L) over L layers, and to L if all of them point
the same way; a norm after each keeps the size. More than L, either way, is growth by a factor a layer.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import cycle, islice
from typing import Any

import torch
from torch import Tensor, nn

from ..definitions.check import Measured, check, expect
from .layers import layers_of
from .subject import ModelUnderTest

LAYERS = 16
_SURPLUS = 2.0


@check("depth", cause="residual branches that start too large or too small, a norm that is missing or doubled")
def depth(subject: ModelUnderTest) -> Iterator[Measured]:
    """A fresh model knows nothing yet, and neither activations nor gradients vanish or explode over its depth."""
    model = subject.fresh_model() if subject.full else subject.fresh_model_of(_deep(subject))
    model.eval()
    layers = layers_of(model)
    outputs: list[Tensor] = []
    for layer in layers:
        layer.register_forward_hook(lambda _, __, out: outputs.append(out[0] if isinstance(out, tuple) else out))
    if not subject.full:
        yield expect(f"as many layers as are asked for, {LAYERS}", len(layers) == LAYERS, f"{len(layers)} layers")
    text, following = subject.tokens(4), subject.tokens(4, seed=1)
    logits = model(text, use_cache=False).logits
    yield _surplus(model, text, logits.detach())
    nn.functional.cross_entropy(logits.flatten(0, 1), following.flatten()).backward()  # type: ignore[no-untyped-call]
    sizes = [float(state.detach().square().mean().sqrt()) for state in outputs]
    yield from _steady("activations", sizes, last_first=True)
    # Gradients of weights: those of hidden states are freed, and of a layer that is not trained there are none.
    yield from _steady("gradients", [_gradient(layer) for layer in layers], last_first=False)


def _deep(subject: ModelUnderTest) -> Any:
    """The small configuration with many layers, of each kind as many as before by turns."""
    config = subject.config()
    names = config.attribute_map
    content = config.to_dict()
    changes: dict[str, Any] = {names.get("num_hidden_layers", "num_hidden_layers"): LAYERS}
    changes |= (derived := subject.underived())
    if (kinds := content.get("layer_types")) and "layer_types" not in derived:
        changes["layer_types"] = list(islice(cycle(kinds), LAYERS))
    return subject.constructed(changes)


def _surplus(model: Any, text: Tensor, logits: Tensor) -> Measured:
    """How far the expected loss lies above ln V."""
    head, embedding = model.get_output_embeddings(), model.get_input_embeddings()
    tied = head is not None and head.weight is embedding.weight
    wide = logits.double()
    if tied:
        wide = wide.scatter(-1, text[..., None], -math.inf)
    known = wide.isfinite()
    mean = wide.where(known, torch.zeros(())).sum(-1) / known.sum(-1)
    loss = float((wide.logsumexp(-1) - mean).mean())
    base = math.log(int(known[0, 0].sum()))
    return Measured(f"expected loss {loss:.2f}, above ln V = {base:.2f} by", loss - base, _SURPLUS, "logits")


def _gradient(layer: nn.Module) -> float:
    gradients = [p.grad for p in layer.parameters() if p.grad is not None and p.dim() >= 2]
    count = sum(g.numel() for g in gradients)
    return math.sqrt(sum(float(g.double().square().sum()) for g in gradients) / count) if count else math.nan


def _steady(what: str, sizes: list[float], *, last_first: bool) -> Iterator[Measured]:
    # Residuals have their size after the first layer, of which the embeddings are a part.
    bad = next((i for i, size in enumerate(sizes) if not 0 < size < math.inf), None)
    yield expect(f"{what}: finite and not 0", bad is None, f"layer {bad}")
    if bad is not None:
        return
    ratio = sizes[-1] / sizes[0] if last_first else sizes[0] / sizes[-1]
    ends = "last layer to first" if last_first else "first layer to last"
    yield Measured(f"{what}, {ends}: {ratio:.3g}; its logarithm", abs(math.log(ratio)), math.log(max(len(sizes), 2)))
