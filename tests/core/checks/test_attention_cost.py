"""attention-cost finds masks that are not needed and tokens that are computed again, and passes correct models."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from forgather_core.checks.attention_cost import _compare, attention_cost
from forgather_core.checks.shared.model_under_test import ModelUnderTest
from forgather_core.checks.shared.operators import SdpaMasks
from forgather_core.checks.try_check import PASSED, try_check
from forgather_core.definitions.registry import registry
from forgather_core.parts.caches import cached_length
from forgather_core.settings.layers import find_configuration
from forgather_core.settings.resolve import resolve
from tests.support.settings import Resolve, small

from . import planted
from .planted import changed_models, edited_subject

__all__ = ["small"]

Plant = Callable[[Any], object]
HEAD = "logits = self.lm_head(hidden_states[:, keep, :])"
ROWS = "rows = max(-(-tokens // MAX_CHUNKS), min(max(size, MIN_TOKENS), ENOUGH_TOKENS))"
PACKED = "elif documents.may_be_packed():"
FUNCTION = "function: AttentionFunction = ALL_ATTENTION_FUNCTIONS.get_interface(implementation, eager_attention)"


def failures(subject: ModelUnderTest) -> list[str]:
    return planted.failures(try_check(attention_cost, subject))


@pytest.mark.parametrize("options", [{}, {"sliding_window": 5, "tie_word_embeddings": True}])
def test_a_correct_model_passes(options: dict[str, Any], small: Resolve, tmp_path: Path) -> None:
    row = try_check(attention_cost, edited_subject(small, tmp_path, **options))
    assert row["result"] == PASSED, [one for one in row["measured"] if not one["holds"]]
    assert any("the chunked loss" in one["what"] for one in row["measured"])


def test_the_biases_of_alibi_are_needed(tmp_path: Path) -> None:
    def run(**flags: Any) -> Any:
        return resolve(find_configuration("deepone/4M", registry(), tmp_path), flags)

    row = try_check(attention_cost, edited_subject(run, tmp_path))
    assert row["result"] == PASSED, [one for one in row["measured"] if not one["holds"]]


@pytest.mark.parametrize(
    ("edits", "words"),
    [
        (
            [
                ("masks.py", PACKED, "else:"),
                ("language_model.py", HEAD, "logits = self.lm_head(hidden_states)[:, keep, :]"),
                ("linear_cross_entropy.py", ROWS, "rows = tokens"),
            ],
            [
                "sdpa, a text as generate() passes it: scaled_dot_product_attention receives a mask",
                "at model.layers.0.self_attn: (2, 1, 20, 20) of torch.bool (2 of 2 calls)",
                "eager, products of the head, logits_to_keep=1:",
                "tensors as large as the full logits",
            ],
        ),
        (
            [("self_attention.py", FUNCTION, "function: AttentionFunction = eager_attention")],
            ["sdpa, a text: scaled_dot_product_attention is not called"],
        ),
    ],
)
def test_mistakes_are_described(
    edits: list[tuple[str, str, str]], words: list[str], small: Resolve, tmp_path: Path
) -> None:
    texts = failures(edited_subject(small, tmp_path, *edits))
    for part in words:
        assert any(part in text for text in texts), texts


def with_masks(model: Any) -> None:
    """Pass a causal mask to every layer's attention."""

    def add(module: nn.Module, arguments: Any, given: dict[str, Any]) -> Any:
        if given.get("attention_mask") is None and module.config._attn_implementation == "sdpa":
            hidden = arguments[0] if arguments else given["hidden_states"]
            past = module.past
            mask = torch.ones(hidden.shape[1], past + hidden.shape[1], dtype=torch.bool).tril(past)
            return arguments, given | {"attention_mask": mask[None, None]}
        return None

    def remember(_: nn.Module, arguments: Any, given: dict[str, Any]) -> None:
        past = int(cached_length(given.get("cache", given.get("past_key_values"))))
        for layer in model.model.layers:
            layer.self_attn.past = past

    model.register_forward_pre_hook(remember, with_kwargs=True)
    for layer in model.model.layers:
        layer.self_attn.register_forward_pre_hook(add, with_kwargs=True)


def with_past(model: Any) -> None:
    """Project the tokens of the past again."""

    def project(_: nn.Module, arguments: Any, given: dict[str, Any]) -> None:
        past = int(cached_length(given.get("cache", given.get("past_key_values"))))
        projection = model.model.layers[1].self_attn.k_proj
        projection(torch.zeros(2, past, projection.in_features))

    model.register_forward_pre_hook(project, with_kwargs=True)


def with_prefixes(model: Any) -> None:
    """Compute the feed-forward layer for each prefix."""

    def repeat(module: Any, arguments: Any, _: Any) -> None:
        for end in range(arguments[0].shape[1]):
            module.up_proj(arguments[0][:, :end])

    model.model.layers[0].mlp.register_forward_hook(repeat)


def test_planted_mistakes_are_described(small: Resolve, tmp_path: Path) -> None:
    def plant(model: Any) -> None:
        with_masks(model)
        with_past(model)
        with_prefixes(model)

    texts = failures(changed_models(edited_subject(small, tmp_path), "randomized_model", plant))
    for words in (
        "sdpa, a text: scaled_dot_product_attention receives a mask",
        "sdpa, a text with a mask of ones: scaled_dot_product_attention receives a mask",
        "sdpa, one token with a cache: scaled_dot_product_attention receives a mask",
        "sdpa, products with weights, one token after 19 in a cache:",
        "at model.layers.1.self_attn.k_proj.weight (20 times)",
        "eager, products with weights, twice as many tokens:",
        "at model.layers.0.mlp.up_proj.weight",
    ):
        assert any(words in text for text in texts), (words, texts)


def test_no_product_is_a_failure() -> None:
    measured = _compare("one", Counter(), Counter(), 2)
    assert not measured.holds
    assert measured.failure == "one: no product was counted"


@pytest.mark.parametrize(
    ("mask", "unneeded"),
    [
        (torch.ones(4, 4, dtype=torch.bool).tril(), True),
        (torch.zeros(4, 4).masked_fill(~torch.ones(4, 4, dtype=torch.bool).tril(), -torch.inf), True),
        (torch.ones(1, 4, dtype=torch.bool), True),
        (torch.ones(4, 4, dtype=torch.bool).tril().triu(-2), False),  # a window
        (torch.ones(4, 4).tril().log() - torch.arange(4), False),  # a bias
        (torch.tensor([[False, True, True, True]]), False),  # padding
    ],
)
def test_a_mask_is_needed_if_it_says_more_than_causality(mask: torch.Tensor, unneeded: bool) -> None:
    query, key = torch.zeros(1, 1, mask.shape[0], 8), torch.zeros(1, 1, 4, 8)
    with SdpaMasks() as masks:
        nn.functional.scaled_dot_product_attention(query, key, key, attn_mask=mask)
    assert bool(masks.unneeded) == unneeded
