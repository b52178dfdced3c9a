"""New models of a definition and their weights, for the tests of initialization."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from forgather_core.checkpoint.read.load import load_checkpoint
from forgather_core.model.no_init import no_init_weights

from .tiny import DEFINITIONS, config_of

UNTIED = {"tie_word_embeddings": False}
Weights = dict[str, Tensor]


def fresh(
    definition: str, seed: int = 1, *, cls: Any = None, dtype: torch.dtype = torch.float32, **options: Any
) -> Any:
    """Return a new model of its configuration, after `torch.manual_seed`."""
    torch.manual_seed(seed)
    return (cls or DEFINITIONS[definition].model)._from_config(config_of(definition, **(UNTIED | options)), dtype=dtype)


def weights(model: nn.Module) -> Weights:
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


def check_equal(found: Weights, expected: Weights) -> None:
    assert found.keys() == expected.keys()
    assert [name for name in found if not torch.equal(found[name], expected[name])] == []


def random_ones(model: nn.Module) -> set[str]:
    return {name for name, parameter in model.named_parameters() if parameter.dim() == 2}


def sevens(model: Any) -> Any:
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(7)
    return model


def meta(cls: Any, config: Any) -> Any:
    with torch.device("meta"):
        return cls(config)


def unset(cls: Any, config: Any) -> Any:
    with no_init_weights():
        return cls(config)


def loaded(model: Any, place: Path, **how: Any) -> Any:
    load_checkpoint(place, model, **how)
    return model


def taken(model: Any, state: Any, **how: Any) -> Any:
    model.load_state_dict(state, **how)
    model.tie_weights()  # on meta there was nothing to tie
    return model


def resized(model: Any, size: int, **how: Any) -> Any:
    model.resize_token_embeddings(size, **how)
    return model


def saved(model: Any, place: Path) -> Any:
    model.save_pretrained(place)
    return model


def with_adapters(model: Any) -> Any:
    peft = pytest.importorskip("peft")
    config = peft.LoraConfig(target_modules=["down_proj"])
    return peft.get_peft_model(model, config).merge_and_unload()
