"""Initial weights follow their definition: std, mean and bound are measured, not read from the rules."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from forgather_core.parts.initial_weights import normal, truncated_normal
from forgather_core.parts.table_init import find_rule

from .tiny import DEFINITIONS, config_of

D, F, V, LAYERS = 256, 512, 3000, 3
WIDE: dict[str, Any] = {"vocab_size": V, "hidden_size": D, "intermediate_size": F, "num_hidden_layers": LAYERS}
CUT = math.exp(-(3**2) / 2) / math.sqrt(2 * math.pi)  # density of the unit normal at 3
SHRINK = math.sqrt(1 - 2 * 3 * CUT / math.erf(3 / math.sqrt(2)))  # deviation of a unit normal without its tails at 3


@dataclass(frozen=True)
class Drawn:
    """Expected statistics: mean 0, a standard deviation, and a bound; None means an untruncated normal distribution."""

    std: float
    bound: float | None = None
    reaches: float = 0.97  # how near to the bound the largest of thousands comes


def cut_normal(std: float) -> Drawn:
    return Drawn(std * SHRINK, bound=3 * std)


def uniform(bound: float) -> Drawn:
    return Drawn(bound / math.sqrt(3), bound=bound, reaches=0.999)


ONE, ZERO = [1.0], [0.0]
NORMS = {"input_layernorm.weight": ONE, "post_attention_layernorm.weight": ONE, "norm.weight": ONE}


def llama_like(tied: bool) -> dict[str, Any]:
    """Return the std of residual outputs: smaller by the square root of the number of branches, two per layer."""
    depth = math.sqrt(2 * LAYERS)
    return NORMS | {
        "embed_tokens.weight": Drawn(1 / math.sqrt(D) if tied else 1.0),
        "self_attn.q_proj.weight": cut_normal(0.02),
        "self_attn.k_proj.weight": cut_normal(0.02),
        "self_attn.v_proj.weight": cut_normal(0.02),
        "self_attn.o_proj.weight": cut_normal(0.02 / depth),
        "mlp.up_proj.weight": cut_normal(0.02),
        "mlp.gate_proj.weight": cut_normal(0.02),
        "mlp.down_proj.weight": cut_normal(0.02 / depth),
        "lm_head.weight": cut_normal(1 / math.sqrt(D)),
    }


def qwen3(tied: bool) -> dict[str, Any]:
    return llama_like(tied) | {"self_attn.q_norm.weight": ONE, "self_attn.k_norm.weight": ONE}


def causal_lm(tied: bool) -> dict[str, Any]:
    return {
        "embed_tokens.weight": Drawn(1 / math.sqrt(D)),
        **{f"self_attn.{name}_proj.weight": uniform(1 / math.sqrt(D)) for name in "qkvo"},
        "mlp.up_proj.weight": uniform(1 / math.sqrt(D)),
        "mlp.up_proj.bias": ZERO,
        "mlp.down_proj.weight": uniform(1 / math.sqrt(F)),
        "mlp.down_proj.bias": ZERO,
        "post_attention_layernorm.weight": ONE,
        "post_attention_layernorm.bias": ZERO,
        "post_feedforward_layernorm.weight": ONE,
        "post_feedforward_layernorm.bias": ZERO,
        "lm_head.weight": uniform(1 / math.sqrt(D)),
    }


def deepone(tied: bool) -> dict[str, Any]:
    """Return the std for four heads of 64 and two key/value heads: queries have size D, keys and values D / 2."""
    beta = (8 * LAYERS) ** -0.25
    return {
        "embed_tokens.weight": Drawn(1 / math.sqrt(D) if tied else 1.0),
        "self_attn.q_proj.weight": Drawn(math.sqrt(2 / (D + D))),
        "self_attn.k_proj.weight": Drawn(math.sqrt(2 / (D + D / 2))),
        "self_attn.v_proj.weight": Drawn(beta * math.sqrt(2 / (D + D / 2))),
        "self_attn.o_proj.weight": Drawn(beta * math.sqrt(2 / (D + D))),
        "self_attn.alibi.slopes": [2**-1, 2 ** -(1 + 7 / 3), 0.0, 0.0],
        "mlp.gate_proj.weight": Drawn(beta * math.sqrt(2 / (D + F))),
        "mlp.up_proj.weight": Drawn(beta * math.sqrt(2 / (D + F))),
        "mlp.down_proj.weight": Drawn(beta * math.sqrt(2 / (D + F))),
        "post_attention_layernorm.weight": ONE,
        "post_feedforward_layernorm.weight": ONE,
        "norm.weight": ONE,
        "lm_head.weight": cut_normal(1 / math.sqrt(D)),
    }


def single_head(tied: bool) -> dict[str, Any]:
    return NORMS | {
        "embed_tokens.weight": Drawn(1 / math.sqrt(D)),
        "self_attn.qk_proj.weight": uniform(1 / math.sqrt(D)),
        "self_attn.ov_proj.weight": uniform(1 / math.sqrt(D)),
        "self_attn.alibi.slopes": [0.5],
        "mlp.gate_proj.weight": uniform(1 / math.sqrt(D)),
        "mlp.up_proj.weight": uniform(1 / math.sqrt(D)),
        "mlp.down_proj.weight": uniform(1 / math.sqrt(F)),
        "lm_head.weight": uniform(1 / math.sqrt(D)),
    }


EXPECTED = {
    "causal_lm": causal_lm,
    "deepone": deepone,
    "llama": llama_like,
    "mistral": llama_like,
    "qwen3": qwen3,
    "single_head": single_head,
    "smollm3": llama_like,
}
definitions = pytest.mark.parametrize("definition", DEFINITIONS)
ties = pytest.mark.parametrize("tied", [False, True], ids=["untied", "tied"])


def kind_of(name: str) -> str:
    """Return the name without its layer: "model.layers.2.mlp.up_proj.weight" is an "mlp.up_proj.weight"."""
    return re.sub(r"^model\.(layers\.\d+\.)?", "", name)


def fresh(definition: str, *, dtype: torch.dtype = torch.float32, **options: Any) -> Any:
    """Return a wide model directly after construction."""
    torch.manual_seed(1)
    head_dim = {"head_dim": 64} if definition == "qwen3" else {}
    config = config_of(definition, **(WIDE | head_dim | options))
    return DEFINITIONS[definition].model._from_config(config, dtype=dtype).eval()


def check(values: Tensor, expected: Drawn, name: str, coarse: float = 0.0) -> None:
    """Check std, mean and largest magnitude; the tolerance is five standard errors plus `coarse` of the value."""
    values, count = values.double(), values.numel()
    std, largest = expected.std, values.abs().max().item()
    assert abs(values.std().item() - std) < 5 * std / math.sqrt(2 * count) + coarse * std, name
    assert abs(values.mean().item()) < 5 * std / math.sqrt(count), name
    if expected.bound is None:
        assert largest > 3.3 * std, name  # some 30 of 30,000 lie beyond
    else:
        assert expected.reaches * expected.bound < largest <= expected.bound * (1 + coarse), name


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@ties
@definitions
def test_every_kind_of_weight_has_its_deviation_mean_and_bound(definition: str, tied: bool, dtype: torch.dtype) -> None:
    model, table = fresh(definition, dtype=dtype, tie_word_embeddings=tied), EXPECTED[definition](tied)
    seen = set()
    for name, parameter in model.named_parameters():
        kind, values = kind_of(name), parameter.detach()
        seen.add(kind)
        assert parameter.dtype == (torch.float32 if kind.endswith("slopes") else dtype), name
        if isinstance(table[kind], list):
            assert torch.equal(values.float(), torch.tensor(table[kind]).expand(parameter.shape)), name
            continue
        if kind == "embed_tokens.weight":
            assert (values[1] == 0).all()  # padding
            values = torch.cat((values[:1], values[2:]))
            assert (values.abs().amax(-1) > 0).all()
        check(values, table[kind], name, coarse=0.0 if dtype == torch.float32 else 2**-8)
    assert (model.lm_head.weight is model.model.embed_tokens.weight) == tied
    assert table.keys() - seen == ({"lm_head.weight"} if tied else set())


@ties
@definitions
def test_the_table_states_the_measured_std(definition: str, tied: bool) -> None:
    model, expected = fresh(definition, tie_word_embeddings=tied), EXPECTED[definition](tied)
    table = list(model.initial_weights())
    for name, parameter in model.named_parameters():
        numbers = expected[kind_of(name)]
        if isinstance(numbers, list):
            std = torch.tensor(numbers, dtype=torch.float64).std(correction=0).item()
        else:
            std = numbers.std
        assert find_rule(table, name).std(parameter.shape) == pytest.approx(std, rel=1e-6), name


def test_the_paper_s_slopes_are_exact_as_well() -> None:
    for name, parameter in fresh("deepone", alibi_slopes="paper", dtype=torch.bfloat16).named_parameters():
        if name.endswith("slopes"):
            assert parameter.tolist() == [2**-2, 2**-4, 2**-6, 2**-8]


@definitions
def test_without_padding_no_row_is_zero(definition: str) -> None:
    embedding = fresh(definition, pad_token_id=None).model.embed_tokens.weight
    assert (embedding.abs().amax(-1) > 0).all()


@definitions
def test_no_two_weights_begin_alike(definition: str) -> None:
    drawn = [p.flatten()[:64] for p in fresh(definition, tie_word_embeddings=False).parameters() if p.dim() == 2]
    assert len({tuple(values.tolist()) for values in drawn}) == len(drawn) > 10


@definitions
def test_a_parameter_that_no_row_matches_is_an_error(definition: str) -> None:
    model = fresh(definition)
    model.model.extra = nn.Linear(3, 3)
    with pytest.raises(ValueError, match=r"no row .* matches the parameter 'extra\.weight'"):
        model.init_weights()


@definitions
@torch.no_grad()
def test_a_fresh_model_knows_nothing_yet(definition: str) -> None:
    """The initial loss is that of a uniform guess, or slightly more."""
    model = fresh(definition, tie_word_embeddings=False)
    ids = torch.randint(3, V, (4, 64), generator=torch.Generator().manual_seed(2))
    loss = model(ids, labels=ids).loss.item()
    assert math.log(V) < loss < math.log(V) + 1.5


@definitions
@torch.no_grad()
def test_a_fresh_tied_model_expects_its_token_again_and_knows_nothing_else(definition: str) -> None:
    """With tied weights, the residual stream predicts the input token; the other tokens are guesses."""
    model = fresh(definition, tie_word_embeddings=True)
    ids = 3 + torch.randperm(V - 3, generator=torch.Generator().manual_seed(2))[:256].view(4, 64)  # none twice
    logits = model(ids).logits[:, :-1]
    here, following = ids[:, :-1, None], ids[:, 1:]
    assert (logits.argmax(-1, keepdim=True) == here).float().mean() > 0.9
    others = logits.scatter(-1, here, -math.inf)
    loss = nn.functional.cross_entropy(others.flatten(0, 1), following.flatten()).item()
    assert math.log(V) < loss < math.log(V) + 1.5


@definitions
def test_a_seed_means_the_same_weights_in_every_dtype(definition: str) -> None:
    wide = dict(fresh(definition).named_parameters())
    for name, parameter in fresh(definition, dtype=torch.bfloat16).named_parameters():
        assert torch.equal(parameter, wide[name].to(parameter.dtype)), name


def test_a_tensor_of_strides_and_one_of_many_pieces_are_filled_whole() -> None:
    for rule in (normal(std=0.5), truncated_normal(std=0.5, cut=1.0)):
        turned, long = torch.zeros(300, 200).t(), torch.zeros(3, 50_000)
        for tensor in (turned, long):
            rule.fill(tensor)
            check(tensor, Drawn(rule.std(tensor.shape), 0.5 if rule.std((1,)) < 0.5 else None), str(rule))
        assert not torch.equal(long[0], long[1])
