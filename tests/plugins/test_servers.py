"""vLLM's transformers backend, tested with a stand-in for its attention.

It runs the headless model on the tokens of all requests as one row, with positions that restart, and passes its
own attention by name: a function that finds keys and values of earlier tokens by the layer's index, and separates the
requests, which the model does not.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AttentionInterface, AutoModel

from forgather_core.parts.layer_inputs import LayerInputs
from forgather_core.parts.requirements import CAUSAL, Needs, sliding

from .tiny import CASES, TOLERANCE, config_of, difference, tiny, tokens

NAME = "vllm_stand_in"
ALIBI = ("deepone", "single_head")
SERVED = [case for case, (definition, _) in CASES.items() if definition not in ALIBI]
LENGTHS = [7, 1, 12, 4]
REQUESTS = [tokens(1, length, seed=length) for length in LENGTHS]


class ServerAttention:
    """One layer's attention: causal, each request by itself, with the keys and values of its earlier tokens.

    Args:
        config: The model's. A server reads heads and windows from it alone.
        layer: Which layer.
    """

    def __init__(self, config: Any, layer: int) -> None:
        self.num_heads = config.num_attention_heads
        self.num_kv_heads = getattr(config, "num_key_value_heads", None) or self.num_heads
        kinds = getattr(config, "layer_types", None)
        slides = kinds is None or kinds[layer] == "sliding_attention"
        self.window = config.sliding_window if slides else None
        self.past: list[tuple[Tensor, Tensor]] = []
        self.counts: list[int] = []  # tokens of each request in the present call

    def forward(self, query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
        """[T, heads * K] each -> [T, H * K]."""
        results, at = [], 0
        assert len(query) == sum(self.counts)
        past, self.past = self.past or [None] * len(self.counts), []
        for count, before in zip(self.counts, past, strict=True):
            q, k, v = (
                x[at : at + count].view(count, heads, -1).transpose(0, 1)
                for x, heads in ((query, self.num_heads), (key, self.num_kv_heads), (value, self.num_kv_heads))
            )
            at += count
            if before is not None:
                k, v = torch.cat((before[0], k), dim=1), torch.cat((before[1], v), dim=1)
            self.past.append((k, v))
            results.append(self._attend(q, k, v, scale).transpose(0, 1).flatten(1))
        return torch.cat(results)

    def _attend(self, query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
        groups = self.num_heads // self.num_kv_heads
        key, value = key.repeat_interleave(groups, dim=0), value.repeat_interleave(groups, dim=0)
        back = torch.arange(key.shape[1] - query.shape[1], key.shape[1])[:, None] - torch.arange(key.shape[1])
        unseen = back < 0 if self.window is None else (back < 0) | (back >= self.window)
        scores = (query @ key.transpose(-1, -2) * scale).masked_fill(unseen, float("-inf"))
        return scores.softmax(-1) @ value


def stand_in(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Any,
    scaling: float,
    attention_instances: dict[int, ServerAttention],
    **_: Any,
) -> tuple[Tensor, None]:
    """As vLLM's function: rows of all tokens, in and out."""
    assert attention_mask is None
    assert query.shape[0] == 1
    rows = (x.transpose(1, 2).flatten(2)[0] for x in (query, key, value))
    return attention_instances[module.layer_idx].forward(*rows, scale=scaling), None


@pytest.fixture(autouse=True)
def _registered() -> Iterator[None]:
    AttentionInterface.register(NAME, stand_in)
    yield
    del AttentionInterface._global_mapping[NAME]


def served(case: str) -> tuple[Any, Any, dict[int, ServerAttention]]:
    """Return the model of a case, its decoder as a server builds it, and the server's attention."""
    definition, options = CASES[case]
    model = tiny(definition, **options)
    config = config_of(definition, **options)
    config._attn_implementation = NAME
    base = AutoModel.from_config(config).eval()
    base.load_state_dict(model.model.state_dict())
    return model, base, {i: ServerAttention(config, i) for i in range(config.num_hidden_layers)}


def run(base: Any, instances: dict[int, ServerAttention], ids: list[Tensor], past: list[int]) -> list[Tensor]:
    """Return the hidden states of each request's next tokens, after `past` cached ones."""
    for instance in instances.values():
        instance.counts = [x.shape[1] for x in ids]
    positions = [torch.arange(start, start + x.shape[1])[None] for x, start in zip(ids, past, strict=True)]
    hidden = base(
        input_ids=torch.cat(ids, dim=1),
        inputs_embeds=None,
        use_cache=False,
        position_ids=torch.cat(positions, dim=1),
        attention_instances=instances,
        return_dict=False,
    )[0]
    return list(hidden.split([x.shape[1] for x in ids], dim=1))


@pytest.mark.parametrize("case", SERVED)
@torch.no_grad()
def test_requests_in_one_row_have_the_logits_of_each_alone(case: str) -> None:
    model, base, instances = served(case)
    for hidden, ids in zip(run(base, instances, REQUESTS, [0] * len(REQUESTS)), REQUESTS, strict=True):
        assert difference(model.lm_head(hidden), model(ids).logits) <= TOLERANCE


@pytest.mark.parametrize("case", SERVED)
@torch.no_grad()
def test_a_token_of_each_request_continues_from_the_servers_cache(case: str) -> None:
    model, base, instances = served(case)
    run(base, instances, REQUESTS, [0] * len(REQUESTS))
    past, seen = LENGTHS, REQUESTS
    for seed in range(3):
        new = [tokens(1, 1, seed=100 * seed + length) for length in LENGTHS]
        states = run(base, instances, new, past)
        past = [length + 1 for length in past]
        seen = [torch.cat(x, dim=1) for x in zip(seen, new, strict=True)]
        for hidden, ids in zip(states, seen, strict=True):
            assert difference(model.lm_head(hidden), model(ids).logits[:, -1:]) <= TOLERANCE


@pytest.mark.parametrize("window", [None, 5])
def test_no_mask_is_made_for_attention_that_transformers_knows_no_mask_of(window: int | None) -> None:
    config = config_of("llama", sliding_window=window)
    config._attn_implementation = NAME
    positions = torch.cat([torch.arange(length) for length in LENGTHS])[None]
    for given in (positions, torch.zeros_like(positions), None):  # a server warms up with zeros
        inputs = LayerInputs(
            config,
            torch.zeros(1, sum(LENGTHS), config.hidden_size),
            attention_mask=None,
            cache=None,
            position_ids=given,
            rotary=lambda name: None,
        )
        needs = Needs(mask=CAUSAL if window is None else sliding(window))
        assert inputs.of(needs, 0) == {"attention_mask": None, "position_ids": inputs.position_ids}


@pytest.mark.parametrize("definition", ALIBI)
def test_alibi_says_that_a_servers_attention_cannot_add_its_biases(definition: str) -> None:
    _, base, instances = served(definition)
    with pytest.raises(ValueError, match=f"'{NAME}' does not support ALiBi: choose eager, sdpa or flex"):
        run(base, instances, REQUESTS, [0] * len(REQUESTS))
