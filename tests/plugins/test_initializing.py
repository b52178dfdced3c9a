"""Initialization: when it runs, when it keeps existing weights, and what its table scales."""

from __future__ import annotations

import copy
import math
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from .fresh_weights import (
    check_equal,
    fresh,
    loaded,
    meta,
    resized,
    saved,
    sevens,
    taken,
    unset,
    weights,
    with_adapters,
)
from .tiny import DEFINITIONS, config_of

EVERY = pytest.mark.parametrize("definition", DEFINITIONS)
UNTIED = {"tie_word_embeddings": False}


# --- R4: initializing again ------------------------------------------------------------------------------------------


# Sources of weights: the class, the configuration, a checkpoint, or the state dict of another model.
WAYS: dict[str, Callable[[Any, Any, Path, Any], Any]] = {
    "constructed": lambda cls, config, place, state: sevens(cls(config)),
    "copied": lambda cls, config, place, state: copy.deepcopy(sevens(cls(config))),
    "pickled": lambda cls, config, place, state: pickle.loads(pickle.dumps(sevens(cls(config)))),
    "saved": lambda cls, config, place, state: saved(sevens(cls(config)), place / "again"),
    "from_pretrained": lambda cls, config, place, state: cls.from_pretrained(place),
    "load_checkpoint, unset": lambda cls, config, place, state: loaded(unset(cls, config), place),
    "load_checkpoint, meta": lambda cls, config, place, state: loaded(meta(cls, config), place, device="cpu"),
    "load_checkpoint, assigned": lambda cls, config, place, state: loaded(meta(cls, config), place, assign=True),
    "load_checkpoint, to_empty": lambda cls, config, place, state: loaded(
        meta(cls, config).to_empty(device="cpu"), place
    ),
    "load_state_dict": lambda cls, config, place, state: taken(cls(config), state),
    "load_state_dict, unset": lambda cls, config, place, state: taken(unset(cls, config), state),
    "load_state_dict, assigned": lambda cls, config, place, state: taken(meta(cls, config), state, assign=True),
    "load_state_dict, to_empty": lambda cls, config, place, state: taken(
        meta(cls, config).to_empty(device="cpu"), state
    ),
    "larger": lambda cls, config, place, state: resized(sevens(cls(config)), 110),
    "larger, drawn": lambda cls, config, place, state: resized(sevens(cls(config)), 110, mean_resizing=False),
    "smaller": lambda cls, config, place, state: resized(sevens(cls(config)), 90),
    "loaded and larger": lambda cls, config, place, state: resized(cls.from_pretrained(place), 110),
    "PEFT, merged": lambda cls, config, place, state: with_adapters(sevens(cls(config))),
}
ALWAYS = {"from_pretrained", "loaded and larger"}  # these kept their weights before the fault was fixed, too
AGAIN: dict[str, Callable[[Any], object]] = {
    "post_init": lambda model: model.post_init(),
    "post_init of the decoder": lambda model: model.base_model.post_init(),
    "initialize_weights": lambda model: model.initialize_weights(),
}


@pytest.mark.few(10)
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("tied", [False, True], ids=["untied", "tied"])
@pytest.mark.parametrize(
    "way",
    [pytest.param(WAYS[name], id=name, marks=() if name in ALWAYS else pytest.mark.regression("R4")) for name in WAYS],
)
@pytest.mark.parametrize("definition", ["llama", "deepone"])
def test_a_model_keeps_its_weights(definition: str, way: Any, tied: bool, tmp_path: Path) -> None:
    cls, config = DEFINITIONS[definition].model, config_of(definition, tie_word_embeddings=tied)
    model = sevens(cls(config))
    model.save_pretrained(tmp_path)
    model = way(cls, copy.deepcopy(config), tmp_path, model.state_dict())
    before = weights(model)
    old_rows = model.get_input_embeddings().weight[:90]
    assert all((p == 7).all() for name, p in before.items() if "embed" not in name and "head" not in name)
    assert (old_rows == 7).all()
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers() if not buffer.is_meta}
    for again in AGAIN.values():
        again(model)
        check_equal(weights(model), before)
    assert all(torch.equal(model.get_buffer(name), buffer) for name, buffer in buffers.items())
    assert (model.lm_head.weight is model.model.embed_tokens.weight) == tied


@pytest.mark.regression("R4")
@EVERY
def test_only_init_weights_starts_over(definition: str) -> None:
    model = sevens(fresh(definition))
    model.post_init()
    assert all((parameter == 7).all() for parameter in model.parameters())
    model.init_weights()
    assert not any((parameter == 7).any() for parameter in model.parameters())


def test_post_init_fills_modules_that_a_subclass_adds() -> None:
    class Larger(DEFINITIONS["llama"].model):  # type: ignore[misc, name-defined]
        def __init__(self, config: Any) -> None:
            super().__init__(config)
            self.extra_proj = nn.Linear(8, 8, bias=False)
            self.first = weights(self)
            self.post_init()

        def initial_weights(self) -> Any:
            from forgather_core.parts.initial_weights import normal

            yield "extra", normal(std=100.0)
            yield from super().initial_weights()

    model = fresh("llama", cls=Larger)
    expected = weights(fresh("llama"))
    extra = model.extra_proj.weight.detach()
    assert extra.std() > 50
    assert not torch.equal(extra, model.first.pop("extra_proj.weight"))
    check_equal(model.first, expected)
    check_equal({name: value for name, value in weights(model).items() if name in expected}, expected)


def test_after_an_error_the_next_call_fills_the_missing_weights() -> None:
    model = sevens(fresh("llama"))
    model.model.extra = nn.Linear(3, 3)
    with pytest.raises(ValueError, match="no row"):
        model.init_weights()
    del model.model.extra
    model.post_init()
    assert not any((parameter == 7).any() for parameter in model.parameters())


# --- The table -------------------------------------------------------------------------------------------------------


@pytest.mark.regression("residual-init")
@pytest.mark.parametrize("definition", ["llama", "mistral", "qwen3"])
def test_only_residual_outputs_are_scaled_by_depth(definition: str) -> None:
    layers = 8
    model = fresh(definition, hidden_size=128, intermediate_size=256, num_hidden_layers=layers)
    for name, parameter in model.named_parameters():
        if name.endswith("_proj.weight"):
            writes = name.endswith(("o_proj.weight", "down_proj.weight"))
            std = 0.02 * 0.9866 / (math.sqrt(2 * layers) if writes else 1)
            assert parameter.std().item() == pytest.approx(std, rel=6 / math.sqrt(2 * parameter.numel())), name
