"""The loop trains, and says what is wrong and where."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from forgather_core.data.batches import Batch, packed_batches, random_documents
from forgather_core.errors import TrialError
from forgather_core.optimizers import FusedStepper, PlainStepper, Stepper
from forgather_core.trial.loop import train
from tests.plugins.tiny import tiny


def batches() -> Iterator[Batch]:
    return packed_batches(random_documents(97, 12, seed=3, packed=True), 2, 12)


def sgd(model: nn.Module, lr: float, take: Any = PlainStepper) -> Stepper:
    return take(model, partial(torch.optim.SGD, lr=lr))


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("options", [{}, {"tie_word_embeddings": True}], ids=["untied", "tied"])
def test_fused_steps_equal_plain_ones_to_the_last_bit(options: dict[str, Any], checkpointing: bool) -> None:
    results = []
    for take in (PlainStepper, FusedStepper):
        model = tiny("llama", **options)
        if checkpointing:
            model.gradient_checkpointing_enable()
        found = train(model, batches(), sgd(model, 0.1, take), steps=3)
        assert all(parameter.grad is None for parameter in model.parameters())
        results.append(([(s.loss, s.grad_norm, s.tokens) for s in found.steps], model.state_dict()))
    (plain, weights), (fused, fused_weights) = results
    assert plain == fused
    assert all(torch.equal(weights[name], fused_weights[name]) for name in weights)


def test_a_step_is_sgd() -> None:
    model, reference = tiny("llama"), tiny("llama")
    batch = next(batches())
    found = train(model, iter([batch]), sgd(model, 0.5), steps=1)
    loss = reference(**batch).loss
    loss.backward()
    gradients = torch.cat([p.grad.flatten() for p in reference.parameters()])
    assert found.steps[0].loss == loss.item()
    assert found.steps[0].grad_norm == pytest.approx(gradients.double().norm().item(), rel=1e-5)
    assert found.steps[0].tokens == 24
    for mine, theirs in zip(model.parameters(), reference.parameters(), strict=True):
        assert torch.equal(mine, theirs.detach() - 0.5 * theirs.grad)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_norms_are_not_less_exact_than_gradients(dtype: torch.dtype) -> None:
    model = tiny("deepone").to(dtype)  # whose slopes stay in float32
    found = train(model, batches(), sgd(model, 0.1), steps=1)
    reference = tiny("deepone").double()
    reference(**next(batches())).loss.backward()
    gradients = torch.cat([p.grad.double().flatten() for p in reference.parameters()])
    assert found.steps[0].grad_norm == pytest.approx(gradients.norm().item(), rel=0.05)


class Poison(nn.Module):
    """Makes its output infinite."""

    def forward(self, hidden_states: Tensor) -> Tensor:
        return hidden_states * float("inf")


def test_a_loss_that_is_not_finite_is_traced_to_the_first_module() -> None:
    model = tiny("llama")
    model.model.layers[1].mlp.act_fn = Poison()
    with pytest.raises(TrialError, match=r"step 1: the loss is nan: model\.layers\.1\.mlp\.act_fn is the first"):
        train(model, batches(), sgd(model, 0.1), steps=1)


class PoisonBackward(torch.autograd.Function):
    """Makes the gradient NaN."""

    @staticmethod
    def forward(_ctx: Any, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(_ctx: Any, *gradients: Tensor) -> Tensor:
        return gradients[0] * float("nan")


@pytest.mark.parametrize("take", [PlainStepper, FusedStepper])
def test_a_gradient_that_is_not_finite_names_its_parameter(take: Any) -> None:
    model = tiny("llama")
    model.model.layers[0].register_forward_hook(lambda _m, _i, out: PoisonBackward.apply(out))
    with pytest.raises(TrialError, match=r"the gradient of model\.(embed_tokens|layers\.0)"):
        train(model, batches(), sgd(model, 0.1, take), steps=1)


@pytest.mark.parametrize("take", [PlainStepper, FusedStepper])
def test_a_parameter_outside_the_graph_is_named(take: Any) -> None:
    model = tiny("llama")
    model.unused = nn.Parameter(torch.ones(3))
    model.frozen = nn.Parameter(torch.ones(3), requires_grad=False)
    assert train(model, batches(), sgd(model, 0.1, take), steps=2).without_gradient == ("unused",)


def test_a_batch_without_targets_is_said() -> None:
    model = tiny("llama")
    batch = next(batches())
    batch["labels"] = torch.full_like(batch["labels"], -100)
    with pytest.raises(TrialError, match="has the batch any target"):
        train(model, iter([batch]), sgd(model, 0.1), steps=1)
