"""Cases and helpers of the checkpoint tests."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM

from forgather_core.checkpoint import SaveReport, save_checkpoint

from .tiny import CASES, DEFINITIONS, OPTIONS, ROPE, difference, randomize_weights, tokens

SMALL = {name: OPTIONS[name] for name in ("hidden_size", "intermediate_size", "num_hidden_layers")}
TIES = pytest.mark.parametrize("tied", [False, True], ids=["untied", "tied"])
EVERY = pytest.mark.parametrize("definition", DEFINITIONS)


@dataclass(frozen=True)
class How:
    """A way to save."""

    dtype: torch.dtype
    safetensors: bool
    limit: str

    def save(self, directory: Path, model: Any) -> SaveReport:
        saved = save_checkpoint(directory, model, safetensors=self.safetensors, max_shard_size=self.limit)
        assert (len(saved.files) > 2) == (self.limit != "5GB")
        return saved


WAYS = {
    "float32, bin": How(torch.float32, False, "5GB"),
    "float32, safetensors in shards": How(torch.float32, True, "20KB"),
    "bfloat16, safetensors": How(torch.bfloat16, True, "5GB"),
    "bfloat16, bin in shards": How(torch.bfloat16, False, "20KB"),
}
HOW = pytest.mark.parametrize("how", WAYS.values(), ids=WAYS)

# Options that change buffers or parameters.
KINDS: dict[str, tuple[str, dict[str, Any]]] = CASES | {
    f"llama, {kind}": ("llama", {"rope_parameters": rope}) for kind, rope in ROPE.items()
}
KIND = pytest.mark.parametrize(("definition", "options"), KINDS.values(), ids=KINDS)

Export = Callable[..., Path]


def fresh(directory: Path, seed: int = 0, *, dtype: torch.dtype = torch.float32) -> Any:
    """Return a model from a directory's configuration and sources, with new random weights."""
    config = AutoConfig.from_pretrained(directory, trust_remote_code=True)
    model = AutoModelForCausalLM.from_config(config, trust_remote_code=True, dtype=dtype)
    randomize_weights(model, seed)
    return model.eval()


def on_meta(config: Any, dtype: torch.dtype = torch.float32) -> Any:
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(config, dtype=dtype).eval()


def by_transformers(directory: Path, **options: Any) -> Any:
    """Return the model that transformers loads, without missing or unexpected tensors."""
    model, said = AutoModelForCausalLM.from_pretrained(
        directory, trust_remote_code=True, output_loading_info=True, **options
    )
    assert not any(said.values()), said
    return model


@torch.no_grad()
def check_same(model: Any, other: Any) -> None:
    """Check that weights, non-persistent buffers, ties, trainability and logits equal those of another model."""
    pairs: list[tuple[dict[str, Tensor], dict[str, Tensor]]] = [
        (model.state_dict(), other.state_dict()),
        (dict(model.named_buffers()), dict(other.named_buffers())),
    ]
    for actual, wanted in pairs:
        assert actual.keys() == wanted.keys()
        for name, tensor in actual.items():
            assert tensor.dtype == wanted[name].dtype, name
            assert torch.equal(tensor, wanted[name]), name
    assert model.dtype == other.dtype
    tied = other.config.tie_word_embeddings
    assert (model.lm_head.weight is model.model.embed_tokens.weight) == tied
    assert (other.lm_head.weight is other.model.embed_tokens.weight) == tied
    trained = {name: parameter.requires_grad for name, parameter in other.named_parameters()}
    assert {name: parameter.requires_grad for name, parameter in model.named_parameters()} == trained
    ids = tokens(2, 20)
    assert difference(model(ids).logits, other(ids).logits) == 0
