"""A diagnostic pass leaves nothing behind: buffers, random numbers and existing graphs are preserved."""

from __future__ import annotations

import gc

import torch
from torch import Tensor, nn

from forgather_core.training.diagnosis import find_nonfinite
from forgather_core.training.exploding import find_exploding_module
from forgather_core.training.module_calls import ModuleCall
from forgather_core.training.random_state import RandomState

from .planted import Normed, Square, batch, diagnose, failing


def test_a_pass_leaves_nothing_in_memory() -> None:
    model = failing("llama")
    leaves = [
        p.expand_as(p).grad_fn.next_functions[0][0] for p in model.parameters()
    ]  # kept alive, as by an optimizer's hook
    model.model.layers[2].mlp.act_fn = Square()
    modules = {found.__module__ for found in (find_nonfinite, find_exploding_module, ModuleCall, RandomState)}

    def alive() -> list[object]:
        gc.collect()
        return [one for one in gc.get_objects() if type(one).__module__ in modules]

    before = alive()  # pytest keeps the frames of earlier failures that were expected
    diagnose(model)
    find_exploding_module(model, batch())
    assert leaves
    assert not [one for one in alive() if not any(one is other for other in before)]


def test_buffers_and_random_numbers_are_restored() -> None:
    class Counting(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("count", torch.zeros(3))
            self.register_buffer("mean", torch.zeros(3))
            self.register_buffer("wide", torch.zeros(1).expand(4))  # cannot be written to

        def forward(self, x: Tensor) -> Tensor:
            self.count += 1
            self.mean = self.mean + 1
            assert self.count[0] == self.mean[0] == 1  # both passes start from the same buffers
            return x

    model = failing("llama")
    counting = model.model.layers[0].mlp.act_fn = Counting()
    mean = counting.mean
    assert "finite throughout" in diagnose(model)
    assert counting.mean is mean


def test_an_existing_graph_can_still_be_differentiated() -> None:
    model = failing("llama")
    model.model.layers[0].mlp.act_fn = Normed()
    loss = model(**batch()).loss
    find_exploding_module(model, batch())
    find_nonfinite(model, batch(), rng=None)
    loss.backward()


def test_dropout_repeats_itself() -> None:
    model = failing("causal_lm")
    model.model.layers[1].drop = drop = nn.Dropout(0.5)
    seen: list[Tensor] = []
    drop.register_forward_hook(lambda _m, _i, out: seen.append(out.detach()))
    state = RandomState.take(torch.device("cpu"))
    model(**batch())
    find_nonfinite(model, batch(), rng=state)
    assert len(seen) == 6
    assert torch.equal(seen[0], seen[2])
    assert torch.equal(seen[0], seen[4])
