"""The training loop trains, and names the place of a failure."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from forgather_core.data.batches import Batch, packed_batches, padded_batches, random_documents
from forgather_core.errors import TrainingCheckError
from forgather_core.training.loop import train
from forgather_core.training.optimizers import FusedStepper, PlainStepper, Stepper
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
    loss = reference(**batch.inputs, skip_logits=True).loss
    loss.backward()
    gradients = torch.cat([p.grad.flatten() for p in reference.parameters()])
    assert found.steps[0].loss == loss.item()
    assert found.steps[0].grad_norm == pytest.approx(gradients.double().norm().item(), rel=1e-5)
    assert found.steps[0].tokens == 24
    for updated, initial in zip(model.parameters(), reference.parameters(), strict=True):
        assert torch.equal(updated, initial.detach() - 0.5 * initial.grad)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_gradient_norms_are_computed_in_float32_or_wider(dtype: torch.dtype) -> None:
    model = tiny("deepone").to(dtype)  # its slopes stay in float32
    found = train(model, batches(), sgd(model, 0.1), steps=1)
    reference = tiny("deepone").double()
    reference(**next(batches()).inputs).loss.backward()
    gradients = torch.cat([p.grad.double().flatten() for p in reference.parameters()])
    assert found.steps[0].grad_norm == pytest.approx(gradients.norm().item(), rel=0.05)


class Poison(nn.Module):
    """Multiply by infinity."""

    def forward(self, hidden_states: Tensor) -> Tensor:
        return hidden_states * float("inf")


def test_traces_a_non_finite_loss_to_the_first_module() -> None:
    model = tiny("llama")
    model.model.layers[1].mlp.act_fn = Poison()
    with pytest.raises(
        TrainingCheckError, match=r"step 1: the loss is nan: model\.layers\.1\.mlp\.act_fn is the first"
    ):
        train(model, batches(), sgd(model, 0.1), steps=1)


def test_the_remedy_of_a_float16_overflow_is_the_hint() -> None:
    model = tiny("llama").half()
    model.model.layers[1].mlp.down_proj.weight.data.fill_(60000)
    with pytest.raises(TrainingCheckError, match="float16 overflows above 65504: try --dtype bfloat16") as caught:
        train(model, batches(), sgd(model, 0.1), steps=1)
    assert caught.value.hint == "try --dtype bfloat16"


class PoisonBackward(torch.autograd.Function):
    """Identity with a NaN gradient."""

    @staticmethod
    def forward(_ctx: Any, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(_ctx: Any, *gradients: Tensor) -> Tensor:
        return gradients[0] * float("nan")


class Poisoned(nn.Module):
    """Identity with a NaN gradient, as a module."""

    def forward(self, x: Tensor) -> Tensor:
        return PoisonBackward.apply(x)


PLACES = {
    PlainStepper: r"a gradient is not finite: model\.layers\.1\.mlp\.act_fn is the first module in backward",
    # The weights are already updated: only the parameter can be named.
    FusedStepper: (
        r"gradient of model\.layers\.1\.mlp\.gate_proj\.weight is the first non-finite gradient in backward"
        r".*remove --fuse-optim"
    ),
}


@pytest.mark.parametrize("take", [PlainStepper, FusedStepper])
def test_traces_a_non_finite_gradient_to_its_origin(take: Any) -> None:
    model = tiny("llama")
    model.model.layers[1].mlp.act_fn = Poisoned()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(TrainingCheckError, match=PLACES[take]) as caught:
        train(model, batches(), sgd(model, 0.1, take), steps=1)
    assert str(caught.value.hint).startswith("try a smaller --lr, or --dtype float32")
    moved = [name for name, value in model.state_dict().items() if not torch.equal(value, before[name])]
    assert moved == [] or take is FusedStepper


@pytest.mark.parametrize("take", [PlainStepper, FusedStepper])
def test_a_non_finite_loss_updates_no_weight(take: Any) -> None:
    model = tiny("llama")
    model.model.layers[1].mlp.act_fn = Poison()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(TrainingCheckError, match="act_fn is the first"):
        train(model, batches(), sgd(model, 0.1, take), steps=1)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize("take", [PlainStepper, FusedStepper])
def test_names_an_exploding_initialization(take: Any) -> None:
    model = tiny("llama")
    assert train(model, batches(), sgd(model, 0.0), steps=1, fresh=True).exploding is None
    with torch.no_grad():
        model.model.layers[1].mlp.down_proj.weight *= 1000
    assert train(model, batches(), sgd(model, 0.0), steps=1).exploding is None, "loaded weights are not examined"
    found = train(model, batches(), sgd(model, 0.0, take), steps=2, fresh=True).exploding
    assert found is not None
    assert found.startswith("model.layers.1.mlp.down_proj multiplies its input")


def test_padding_is_not_counted() -> None:
    model = tiny("llama")
    found = train(model, padded_batches([[5] * 12, [7] * 6], 2, 12, pad_id=1), sgd(model, 0.1), steps=1)
    assert (found.steps[0].tokens, found.steps[0].batch_utilization) == (18, 0.75)


@pytest.mark.parametrize("full_logits", [False, True])
def test_logits_are_computed_only_on_request(full_logits: bool) -> None:
    model, calls = tiny("llama"), []

    def seen(linear: nn.Linear, x: Tensor) -> Tensor:
        calls.append(linear)
        return nn.functional.linear(x, linear.weight)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(nn.Linear, "forward", seen)
        train(model, batches(), sgd(model, 0.1), steps=1, full_logits=full_logits)
    assert (model.lm_head in calls) is full_logits


@pytest.mark.parametrize("take", [PlainStepper, FusedStepper])
def test_names_a_parameter_outside_the_graph(take: Any) -> None:
    model = tiny("llama")
    model.unused = nn.Parameter(torch.ones(3))
    model.frozen = nn.Parameter(torch.ones(3), requires_grad=False)
    assert train(model, batches(), sgd(model, 0.1, take), steps=2).without_gradient == ("unused",)


def test_reports_a_batch_without_targets() -> None:
    model = tiny("llama")
    batch = next(batches())
    batch.inputs["labels"] = torch.full_like(batch.inputs["labels"], -100)
    with pytest.raises(TrainingCheckError, match="the batch has no targets"):
        train(model, iter([batch]), sgd(model, 0.1), steps=1)


@pytest.mark.regression("P7")
@pytest.mark.parametrize("error", [KeyboardInterrupt(), MemoryError(), TrainingCheckError("step 3: no")], ids=repr)
def test_keeps_the_measurements_when_the_loop_ends_early(error: BaseException) -> None:
    from inspect import signature

    assert "on_partial" in signature(train).parameters, "the steps so far are lost"

    def stop() -> Iterator[Batch]:
        for _, batch in zip(range(2), batches(), strict=False):
            yield batch
        raise error

    kept: list[Any] = []
    model = tiny("llama")
    whole = train(model, batches(), sgd(model, 0.1), steps=2)
    model = tiny("llama")
    with pytest.raises(type(error)):
        train(model, stop(), sgd(model, 0.1), steps=5, on_partial=kept.append)
    assert [step.step for step in kept[0].steps] == [1, 2]
    assert kept[0].steps[0].loss == whole.steps[0].loss
    assert kept[0].first_batch_after is None
    assert kept[0].ended
