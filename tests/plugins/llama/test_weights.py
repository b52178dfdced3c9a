"""Initial weights are those of the table, and what no checkpoint holds is right after every way to a model."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from forgather_llama.configuration_llama import LlamaConfig
from forgather_llama.modeling_llama import LlamaForCausalLM
from torch import nn

from .tiny import OPTIONS, ROPE, copied, difference, tiny, tokens

WIDE = {
    "vocab_size": 3000,
    "hidden_size": 256,
    "intermediate_size": 512,
    "num_attention_heads": 4,
    "num_hidden_layers": 3,
}
CUT = 3.0
PHI = math.exp(-(CUT**2) / 2) / math.sqrt(2 * math.pi)
SHRINK = math.sqrt(1 - 2 * CUT * PHI / math.erf(CUT / math.sqrt(2)))  # of a normal cut at three of its deviations


def wide(**options: Any) -> LlamaForCausalLM:
    torch.manual_seed(1)
    return LlamaForCausalLM(LlamaConfig(**copied(OPTIONS | WIDE | {"num_key_value_heads": 4} | options)))


@pytest.mark.parametrize("tied", [False, True], ids=["untied", "tied"])
def test_every_kind_of_weight_has_its_spread(tied: bool) -> None:
    model = wide(tie_word_embeddings=tied)
    depth = (2 * 3) ** -0.5
    expected = {  # pattern -> standard deviation, bound
        r"embed_tokens": (256**-0.5 if tied else 1.0, math.inf),
        r"(q|k|v|up)_proj": (0.02 * SHRINK, 0.06),
        r"(o|gate|down)_proj": (0.02 * depth * SHRINK, 0.06 * depth),
        r"lm_head": (256**-0.5 * SHRINK, 3 * 256**-0.5),
    }
    for name, parameter in model.named_parameters():
        if "norm" in name:
            assert torch.equal(parameter, torch.ones(256))
            continue
        std, bound = next(value for pattern, value in expected.items() if re.search(pattern, name))
        values = parameter.detach().double()
        if "embed_tokens" in name:
            assert (values[1] == 0).all()  # padding
            values = torch.cat((values[:1], values[2:]))
        error = std / math.sqrt(2 * values.numel())
        assert abs(values.std().item() - std) < 5 * error, name
        assert abs(values.mean().item()) < 5 * std / math.sqrt(values.numel()), name
        assert values.abs().max().item() <= bound, name
    assert (model.lm_head.weight is model.model.embed_tokens.weight) == tied


def test_the_table_states_what_it_does() -> None:
    model = wide()
    for pattern, rule in model.initial_weights():
        found = [p.detach() for n, p in model.named_parameters() if re.search(pattern, n) and p.dim() == 2]
        for parameter in found:
            assert parameter.std().item() == pytest.approx(rule.std(parameter.shape), rel=0.02)


def test_a_parameter_that_no_row_matches_is_an_error() -> None:
    model = wide()
    model.model.extra = nn.Linear(3, 3)
    with pytest.raises(ValueError, match=r"matches the parameter 'extra\.weight'"):
        model.init_weights()


def right_buffers(model: Any, reference: Any) -> None:
    assert not any(tensor.is_meta for tensor in [*model.buffers(), *model.parameters()])
    expected = dict(reference.named_buffers())
    for name, buffer in model.named_buffers():
        assert buffer.dtype == torch.float32
        assert torch.equal(buffer, expected[name]), name


@pytest.mark.parametrize("kind", ROPE)
def test_buffers_are_right_however_a_model_came_to_be(kind: str, tmp_path: Path) -> None:
    options = {"rope_parameters": ROPE[kind]}
    model = tiny(**options)
    model.save_pretrained(tmp_path)
    loaded = LlamaForCausalLM.from_pretrained(tmp_path)
    right_buffers(loaded, model)
    assert difference(loaded(tokens(1, 40)).logits, model(tokens(1, 40)).logits) == 0
    right_buffers(LlamaForCausalLM.from_pretrained(tmp_path, dtype=torch.bfloat16), model)
    with torch.device("meta"):
        empty = LlamaForCausalLM(model.config)
    empty.to_empty(device="cpu")
    right_buffers(empty, model)
    empty.init_weights()
    right_buffers(empty, model)
    right_buffers(tiny(**options).to(torch.bfloat16), model)
    right_buffers(tiny(**options).half().double(), model)


def test_initialising_again_draws_again_and_a_load_is_not_overwritten(tmp_path: Path) -> None:
    model = tiny()
    before = model.lm_head.weight.detach().clone()
    model.save_pretrained(tmp_path)
    assert torch.equal(LlamaForCausalLM.from_pretrained(tmp_path).lm_head.weight, before)
    model.init_weights()
    assert not torch.equal(model.lm_head.weight, before)


@pytest.mark.parametrize("tied", [False, True], ids=["untied", "tied"])
@pytest.mark.parametrize("size", [60, 120])
def test_the_vocabulary_can_be_resized(tied: bool, size: int) -> None:
    model = tiny(tie_word_embeddings=tied)
    logits = model(tokens(1, 5) % 50).logits
    model.resize_token_embeddings(size)
    resized = model(tokens(1, 5) % 50).logits
    assert resized.shape[-1] == model.config.vocab_size == size
    assert difference(resized[..., :60], logits[..., :60]) <= 1e-5
    assert (model.lm_head.weight is model.model.embed_tokens.weight) == tied


@pytest.mark.parametrize("tied", [False, True], ids=["untied", "tied"])
def test_tied_stays_tied_through_a_save(tied: bool, tmp_path: Path) -> None:
    model = tiny(tie_word_embeddings=tied)
    model.save_pretrained(tmp_path)
    loaded = LlamaForCausalLM.from_pretrained(tmp_path)
    assert (loaded.lm_head.weight is loaded.model.embed_tokens.weight) == tied
    assert difference(loaded(tokens(1, 5)).logits, model(tokens(1, 5)).logits) == 0


def test_bfloat16_is_close_to_float32() -> None:
    model = wide().eval()
    logits = model(tokens(2, 30)).logits
    low = model.to(torch.bfloat16)(tokens(2, 30)).logits
    assert difference(low, logits) <= 2**-5 * logits.abs().max().item()


def test_gradient_checkpointing_changes_nothing() -> None:
    plain, recomputing = tiny().train(), tiny().train()
    recomputing.gradient_checkpointing_enable()
    ids = tokens(2, 20)
    losses = [model(ids, labels=ids).loss for model in (plain, recomputing)]
    assert torch.equal(*losses)
    for loss in losses:
        loss.backward()
    for mine, other in zip(plain.parameters(), recomputing.parameters(), strict=True):
        assert torch.equal(mine.grad, other.grad)


def test_attention_dropout_works_in_training_only() -> None:
    for attention in ("eager", "sdpa"):
        model, ids = tiny(attention_dropout=0.5, attention=attention), tokens(1, 20)
        assert difference(model(ids).logits, model(ids).logits) == 0
        model.train()
        assert difference(model(ids).logits, model(ids).logits) > 0.01


@pytest.mark.slow
@pytest.mark.parametrize("options", [{}, {"sliding_window": 6, "tie_word_embeddings": True}], ids=["plain", "window"])
def test_one_graph_without_breaks(options: dict[str, Any]) -> None:
    torch._dynamo.reset()
    model, ids = tiny(**options).train(), tokens(2, 12)
    compiled = torch.compile(model, fullgraph=True)
    loss = compiled(ids, labels=ids, use_cache=False).loss
    expected = model(ids, labels=ids, use_cache=False).loss
    assert abs(loss.item() - expected.item()) <= 1e-5
    loss.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
