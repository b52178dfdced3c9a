"""causal_lm, deepone and single_head compute what the papers' equations say: logits, loss, gradients, in float64."""

from __future__ import annotations

import functools
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from forgather_causal_lm import reference as transformer
from forgather_deepone import reference as deepone
from forgather_deepone.modeling_deepone import DeeponeModel
from forgather_single_head import reference as single_head
from torch import Tensor, nn
from transformers import DynamicCache, StaticCache

from forgather_core.parts import alibi
from forgather_core.reference import float64, surprise

from .cases import in_chunks
from .tiny import DEFINITIONS, TOLERANCE, config_of, difference, tiny, tokens


@dataclass(frozen=True)
class Case:
    """A definition, its options, and the same for the reference."""

    definition: str
    options: dict[str, Any] = field(default_factory=dict)
    reference: dict[str, Any] = field(default_factory=dict)


REFERENCES: dict[str, tuple[Any, dict[str, Any]]] = {  # of the tiny models
    "causal_lm": (transformer.logits, {"layers": 2, "heads": 4}),
    "deepone": (deepone.logits, {"layers": 2, "heads": 4, "kv_heads": 2, "head_dim": 8}),
    "single_head": (single_head.logits, {"layers": 2}),
}
SIX = {"num_attention_heads": 6, "num_key_value_heads": 3, "head_dim": 8}
SIX_REFERENCE = {"heads": 6, "kv_heads": 3, "head_dim": 8}
CASES = {
    "causal_lm": Case("causal_lm"),
    "causal_lm, window, two heads": Case(
        "causal_lm", {"sliding_window": 4, "num_attention_heads": 2}, {"window": 4, "heads": 2}
    ),
    "causal_lm, tied, three layers, eps": Case(
        "causal_lm",
        {"tie_word_embeddings": True, "num_hidden_layers": 3, "layer_norm_eps": 0.1},
        {"layers": 3, "eps": 0.1},
    ),
    "deepone": Case("deepone"),
    "deepone, window, three layers, eps": Case(
        "deepone",
        {"sliding_window": 4, "num_hidden_layers": 3, "rms_norm_eps": 0.1},
        {"window": 4, "layers": 3, "eps": 0.1},
    ),
    "deepone, multi-head, tied": Case(
        "deepone", {"num_key_value_heads": None, "tie_word_embeddings": True}, {"kv_heads": 4}
    ),
    "deepone, one kv head, wide": Case(
        "deepone", {"num_key_value_heads": 1, "head_dim": 16}, {"kv_heads": 1, "head_dim": 16}
    ),
    "deepone, the paper's slopes": Case(
        "deepone",
        SIX | {"alibi_slopes": "paper"},
        SIX_REFERENCE | {"slopes": deepone.paper_slopes(6)},
    ),
    "deepone, half slopes, fixed": Case(
        "deepone",
        SIX | {"alibi_slopes": "half", "alibi_trainable": False},
        SIX_REFERENCE | {"slopes": deepone.half_slopes(6)},
    ),
    "single_head": Case("single_head"),
    "single_head, window, eps": Case(
        "single_head", {"sliding_window": 4, "rms_norm_eps": 0.1}, {"window": 4, "eps": 0.1}
    ),
    "single_head, tied, three layers": Case(
        "single_head", {"tie_word_embeddings": True, "num_hidden_layers": 3}, {"layers": 3}
    ),
}
cases = pytest.mark.parametrize("name", CASES)
attentions = pytest.mark.parametrize("attention", ["eager", "sdpa"])

# Two rows of three documents each; the last of the second row is one token.
LENGTHS = [[5, 3, 4], [2, 9, 1]]
IDS = tokens(2, 12)
POSITIONS = torch.tensor([[p for n in row for p in range(n)] for row in LENGTHS])
DOCUMENTS = [document for ids, lengths in zip(IDS, LENGTHS, strict=True) for document in ids.split(lengths)]


def product(name: str, attention: str = "sdpa") -> Any:
    """Return the model under test in eval mode, with its own slopes if their rule is tested, else with large ones."""
    case = CASES[name]
    model = tiny(case.definition, attention=attention, **case.options)
    model.lm_head.weight.data.mul_(0.5)  # logits of a few units: what is compared to 1e-5 has 24 bits
    if "slopes" in case.reference:
        fresh = DEFINITIONS[case.definition].model(config_of(case.definition, **case.options)).state_dict()
        slopes = {name: value for name, value in fresh.items() if name.endswith("slopes")}
        assert len(slopes) == 2
        model.load_state_dict(slopes, strict=False)
    return model


def reference(name: str, weights: dict[str, Tensor], ids: Tensor) -> Tensor:
    """Return the logits of one document."""
    function, shape = REFERENCES[CASES[name].definition]
    result: Tensor = function(weights, ids, **(shape | CASES[name].reference))
    return result


@functools.cache
def each_alone(name: str) -> list[Tensor]:
    """Return the reference's logits of every document."""
    weights = float64(product(name).state_dict())
    return [reference(name, weights, document) for document in DOCUMENTS]


@functools.cache
def loss_and_gradients(name: str) -> tuple[float, dict[str, Tensor]]:
    """Return the reference's mean loss over the targets of all documents, and its gradient for each weight."""
    model = product(name)
    weights = float64(model.state_dict(), trainable=True)
    if model.config.tie_word_embeddings:
        weights["lm_head.weight"] = weights["model.embed_tokens.weight"]
    losses = torch.cat([surprise(reference(name, weights, document), document) for document in DOCUMENTS])
    loss = losses.mean()
    loss.backward()
    return loss.item(), {name: weight.grad for name, weight in weights.items() if weight.grad is not None}


def relative(a: Tensor, b: Tensor) -> float:
    """Return the largest difference, relative to the largest magnitude of b or 0.1 (softmax gradients are small)."""
    assert a.shape == b.shape
    return ((a.double() - b).abs().max() / b.abs().max().clamp(min=0.1)).item()


def gradients_agree(model: nn.Module, name: str) -> None:
    expected = loss_and_gradients(name)[1]
    for parameter_name, parameter in model.named_parameters():
        if parameter_name.endswith("slopes") and "slopes" in CASES[name].reference:
            continue  # constants to the reference
        assert parameter.requires_grad
        assert relative(parameter.grad, expected[parameter_name]) <= TOLERANCE, parameter_name


@attentions
@cases
@torch.no_grad()
def test_logits_are_those_of_the_equations(name: str, attention: str) -> None:
    model = product(name, attention)
    for document, expected in zip(DOCUMENTS, each_alone(name), strict=True):
        assert difference(model(document[None]).logits[0], expected) <= TOLERANCE


@pytest.mark.few(12)
@attentions
@cases
def test_loss_and_gradients_are_those_of_the_equations(name: str, attention: str) -> None:
    model = product(name, attention).train()
    count = sum(len(document) - 1 for document in DOCUMENTS)
    total = 0.0
    for document in DOCUMENTS[:-1]:  # the last one is a single token
        loss = model(document[None], labels=document[None], num_items_in_batch=count).loss
        loss.backward()
        total += loss.item()
    assert abs(total - loss_and_gradients(name)[0]) <= TOLERANCE
    gradients_agree(model, name)


@pytest.mark.few(16)
@attentions
@pytest.mark.parametrize("side", ["left", "right"])
@cases
def test_padded_rows_are_their_documents_alone(name: str, side: str, attention: str) -> None:
    """Compare all six documents as rows of one batch: logits, loss and gradients."""
    model = product(name, attention).train()
    longest = max(map(len, DOCUMENTS))
    ids, mask, labels = (torch.full((len(DOCUMENTS), longest), fill) for fill in (1, 0, -100))
    for row, document in enumerate(DOCUMENTS):
        where = slice(longest - len(document), None) if side == "left" else slice(len(document))
        ids[row, where], mask[row, where], labels[row, where] = document, 1, document
    if side == "left":  # the first token of a document follows nothing
        labels[torch.arange(len(ids)), mask.argmax(-1)] = -100
    out = model(ids, attention_mask=mask, labels=labels)
    assert difference(out.logits[mask.bool()], torch.cat(each_alone(name))) <= TOLERANCE
    assert abs(out.loss.item() - loss_and_gradients(name)[0]) <= TOLERANCE
    out.loss.backward()
    gradients_agree(model, name)


@pytest.mark.few(36)
@attentions
@pytest.mark.parametrize(
    ("ones", "use_cache"),
    [(False, False), (False, True), (True, True)],
    ids=["no mask, no cache", "no mask, cache", "mask of ones, cache"],
)
@cases
def test_packed_rows_are_their_documents_alone(name: str, ones: bool, use_cache: bool, attention: str) -> None:
    model = product(name, attention).train()
    mask = torch.ones_like(IDS) if ones else None
    labels = IDS.masked_fill(POSITIONS == 0, -100)
    out = model(IDS, attention_mask=mask, position_ids=POSITIONS, labels=labels, use_cache=use_cache)
    assert difference(out.logits.flatten(0, 1), torch.cat(each_alone(name))) <= TOLERANCE
    assert abs(out.loss.item() - loss_and_gradients(name)[0]) <= TOLERANCE
    out.loss.backward()
    gradients_agree(model, name)


@pytest.mark.few(16)
@attentions
@pytest.mark.parametrize("sizes", [[5, 1, 1, 3, 2], pytest.param([1] * 12, marks=pytest.mark.slow)], ids=str)
@pytest.mark.parametrize("make", [DynamicCache, StaticCache])
@cases
@torch.no_grad()
def test_what_a_cache_holds_is_as_good_as_the_whole(name: str, make: Any, sizes: list[int], attention: str) -> None:
    """Compare packed rows in chunks, then a document with left padding in chunks."""
    model = product(name, attention)
    more = {"max_cache_len": 14} if make is StaticCache else {}
    logits = in_chunks(model, IDS, make(config=model.config, **more), sizes, position_ids=POSITIONS)
    assert difference(logits.flatten(0, 1), torch.cat(each_alone(name))) <= TOLERANCE

    longest = DOCUMENTS[4]
    ids = torch.cat((torch.tensor([1, 1, 1]), longest))[None]
    logits = in_chunks(model, ids, make(config=model.config, **more), sizes, (ids != 1).long())
    assert difference(logits[0, 3:], each_alone(name)[4]) <= TOLERANCE


def test_slopes_that_are_not_trained_get_no_gradient() -> None:
    model = product("deepone, half slopes, fixed").train()
    model(IDS, labels=IDS).loss.backward()
    slopes = [parameter for name, parameter in model.named_parameters() if name.endswith("slopes")]
    assert len(slopes) == 2
    assert all(not slope.requires_grad and slope.grad is None for slope in slopes)


@pytest.mark.parametrize("heads", range(1, 17))
def test_slopes(heads: int) -> None:
    assert alibi.paper_slopes(heads) == pytest.approx(deepone.paper_slopes(heads), rel=1e-12)
    assert alibi.half_slopes(heads) == pytest.approx(deepone.half_slopes(heads), rel=1e-12)
    assert len(alibi.paper_slopes(heads)) == len(alibi.half_slopes(heads)) == heads


def test_slopes_that_the_paper_gives_in_numbers() -> None:
    assert alibi.paper_slopes(8) == [1 / 2, 1 / 4, 1 / 8, 1 / 16, 1 / 32, 1 / 64, 1 / 128, 1 / 256]
    assert alibi.paper_slopes(16) == pytest.approx([2**-0.5, 2**-1, 2**-1.5, 2**-2, 2**-2.5, 2**-3, 2**-3.5, 2**-4,
        2**-4.5, 2**-5, 2**-5.5, 2**-6, 2**-6.5, 2**-7, 2**-7.5, 2**-8])  # fmt: skip
    assert alibi.paper_slopes(6) == pytest.approx([1 / 4, 1 / 16, 1 / 64, 1 / 256, 1 / 2, 1 / 8])
    assert alibi.half_slopes(8) == [1 / 2, 1 / 4, 1 / 8, 1 / 16, 0, 0, 0, 0]


@pytest.mark.parametrize(("layers", "alpha", "beta"), [(4, 1.6818, 0.4204), (8, 2.0, 0.3536), (32, 2.8284, 0.25)])
def test_the_constants_of_deepnorm(layers: int, alpha: float, beta: float) -> None:
    model = DeeponeModel(config_of("deepone", num_hidden_layers=layers))
    assert [layer.alpha for layer in model.layers] == pytest.approx([alpha] * layers, abs=5e-5)
    gains = {pattern: rule.gain for pattern, rule in model.initial_weights() if hasattr(rule, "gain")}
    assert gains == {"(q|k)_proj": 1, "(v|o|gate|up|down)_proj": pytest.approx(beta, abs=5e-5)}
    assert deepone.alpha_of(layers) == pytest.approx(alpha, abs=5e-5)
