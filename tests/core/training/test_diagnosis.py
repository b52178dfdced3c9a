"""Diagnosis names the place of a planted mistake."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from forgather_core.model.build import is_checkpointing
from forgather_core.training.optimizers import FusedStepper

from .planted import Around, Log, Poison, Square, Unpack, batch, diagnose, failing, same, third_party

PASSED_ON = ": its own code passes a non-finite value to model.layers.2.mlp.inner.inner"
MODELS = ["llama", "deepone", "causal_lm"]
CHECKPOINTING = pytest.mark.parametrize("checkpointing", [False, True], ids=["", "checkpointing"])


@CHECKPOINTING
@pytest.mark.parametrize("definition", MODELS)
def test_names_a_non_finite_weight(definition: str, checkpointing: bool) -> None:
    model = failing(definition)
    if checkpointing:
        model.gradient_checkpointing_enable()
    name = "up_proj" if definition == "causal_lm" else "down_proj"
    getattr(model.model.layers[2].mlp, name).weight.data[3, 5] = float("nan")
    assert diagnose(model) == (
        f"model.layers.2.mlp.{name} is the first module with finite input and non-finite output (NaN): "
        "its weight contains NaN"
    )
    assert is_checkpointing(model) == checkpointing


@CHECKPOINTING
@pytest.mark.parametrize("definition", MODELS)
def test_names_the_innermost_module(definition: str, checkpointing: bool) -> None:
    model = failing(definition)
    if checkpointing:
        model.gradient_checkpointing_enable()
    model.model.layers[2].mlp.act_fn = Log()
    found = "model.layers.2.mlp.act_fn is the first module with finite input and non-finite output (NaN)"
    assert diagnose(model) == found


@pytest.mark.parametrize(
    ("before", "after", "reason"),
    [
        (torch.log, same, ": its own code passes a non-finite value to model.layers.2.mlp.inner.inner"),
        (same, torch.log, ": its own code produces this value, after its submodules"),
        (
            lambda x: x.mul_(torch.inf),
            same,
            ": its own code passes a non-finite value to model.layers.2.mlp.inner.inner",
        ),
    ],
    ids=["before", "after", "in place"],
)
def test_distinguishes_a_modules_own_code_from_its_submodules(before: Any, after: Any, reason: str) -> None:
    model = failing("deepone")
    mlp = model.model.layers[2].mlp
    model.model.layers[2].mlp = Unpack(Around(mlp, before, after))
    found = diagnose(model)
    assert found.startswith("model.layers.2.mlp.inner is the first module with finite input and non-finite output")
    assert reason in found


def test_an_attention_mask_is_not_a_failure() -> None:
    model = failing("llama")

    class Mask(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.full(x.shape[:2], -torch.inf)

    class Masked(nn.Module):
        def __init__(self, mlp: nn.Module) -> None:
            super().__init__()
            self.mlp, self.mask = mlp, Mask()

        def forward(self, x: Tensor) -> Tensor:
            result: Tensor = self.mlp(x) + self.mask(x).exp()[..., None]
            return result

    model.model.layers[0].mlp = Masked(model.model.layers[0].mlp)
    model.model.layers[1].mlp.act_fn = Log()
    assert diagnose(model).startswith("model.layers.1.mlp.act_fn is the first")


def test_explains_float16_overflow() -> None:
    model = failing("llama").half()
    model.model.layers[1].mlp.down_proj.weight.data.fill_(60000)
    found = diagnose(model)
    assert found.startswith("model.layers.1.mlp.down_proj is the first")
    assert found.endswith("float16 overflows above 65504")
    model = failing("llama").half()
    loss = model.loss_function
    model.loss_function = lambda **kwargs: loss(**kwargs) * 1e8
    assert diagnose(model).endswith("(inf, in ToCopyBackward0; float16 overflows above 65504)")


@pytest.mark.parametrize("definition", ["llama", "single_head"])
def test_explains_a_non_finite_loss(definition: str) -> None:
    model = failing(definition)
    empty = torch.full((2, 12), -100)
    empty[:, 0] = 5  # the first token has no predecessor
    assert diagnose(model, batch() | {"labels": empty}) == (
        "every module's output is finite, but the loss is not: the batch has no targets, every label is -100"
    )
    model.loss_function = lambda logits, **_: logits.sum() * torch.inf
    assert diagnose(model).endswith("but the loss is not: the batch has targets, and every weight is finite")
    model.scale = nn.Parameter(torch.tensor(-torch.inf))
    model.loss_function = lambda logits, **_: logits.sum() * model.scale
    assert diagnose(model).endswith("but the loss is not: scale contains -inf")


@CHECKPOINTING
@pytest.mark.parametrize("fused", [False, True], ids=["", "fused"])
@pytest.mark.parametrize("definition", ["llama", "deepone"])
def test_traces_a_non_finite_gradient_to_module_and_operation(
    definition: str, fused: bool, checkpointing: bool
) -> None:
    model = failing(definition)
    if checkpointing:
        model.gradient_checkpointing_enable()
    if fused:
        FusedStepper(model, partial(torch.optim.SGD, lr=0.1))  # kept alive by the hooks of the parameters
    model.model.layers[2].mlp.act_fn = Square()
    assert diagnose(model) == (
        "model.layers.2.mlp.act_fn is the first module in backward that turns finite gradients into a non-finite one "
        "(NaN, in SqrtBackward0, which has no finite gradient at 0)"
    )


@pytest.mark.parametrize(
    ("before", "after"),
    [(Poison.apply, same), (same, Poison.apply), (lambda x: Poison.apply(x * 1).mul_(2), same)],
    ids=["before", "after", "in place"],
)
@pytest.mark.parametrize("definition", ["llama", "deepone"])
def test_traces_gradients_to_a_modules_own_code(definition: str, before: Any, after: Any) -> None:
    model = failing(definition)
    model.model.layers[2].mlp = Unpack(Around(model.model.layers[2].mlp, before, after))
    assert diagnose(model) == (
        "model.layers.2.mlp.inner is the first module in backward that turns finite gradients into a non-finite one "
        "(inf, in PoisonBackward)"
    )


def test_traces_gradients_to_attention_and_to_the_loss() -> None:
    model = failing("llama", attention="eager")
    projection = model.model.layers[2].self_attn.q_proj
    projection.register_forward_hook(lambda _m, _i, out: Poison.apply(out))
    assert diagnose(model).startswith("model.layers.2.self_attn is the first module in backward")
    model = failing("llama")
    loss = model.loss_function
    model.loss_function = lambda **kwargs: Poison.apply(loss(**kwargs))
    assert diagnose(model).startswith("LlamaForCausalLM itself is the first module in backward")


@pytest.mark.parametrize("change", [torch.log, lambda x: Poison.apply(x * 1)], ids=["forward", "backward"])
def test_keyword_arguments_belong_to_the_caller(change: Any) -> None:
    class ByKeyword(nn.Module):
        def __init__(self, mlp: nn.Module) -> None:
            super().__init__()
            self.mlp = Inner(mlp)

        def forward(self, x: Tensor) -> Any:
            return self.mlp(x=change(x))

    class Inner(nn.Module):
        def __init__(self, mlp: nn.Module) -> None:
            super().__init__()
            self.inner = mlp

        def forward(self, *, x: Tensor) -> Any:
            return self.inner(x.sin())

    model = failing("llama")
    model.model.layers[2].mlp = ByKeyword(model.model.layers[2].mlp)
    assert diagnose(model).startswith("model.layers.2.mlp is the first module ")


def test_reentrant_checkpointing_is_disabled() -> None:
    model = failing("llama")
    model.gradient_checkpointing_enable({"use_reentrant": True})
    model.model.layers[2].mlp.act_fn = Square()
    assert diagnose(model).startswith("model.layers.2.mlp.act_fn is the first module in backward")
    assert is_checkpointing(model)


def test_finite_gradients_with_a_non_finite_sum() -> None:
    class Large(torch.autograd.Function):
        @staticmethod
        def forward(_ctx: Any, x: Tensor) -> Tensor:
            return x.clone()

        @staticmethod
        def backward(_ctx: Any, *gradients: Tensor) -> Tensor:
            return torch.full_like(gradients[0], 3e38)

    model = failing("llama")
    mlp = model.model.layers[2].mlp
    model.model.layers[2].mlp = Unpack(Around(mlp, same, lambda x: Large.apply(x) + Large.apply(x)))
    assert diagnose(model).startswith("the sum of the finite gradients that reach model.layers.2.mlp.inner")
    model = failing("llama")
    weight = model.model.norm.weight
    plain = model.model.norm.forward
    model.model.norm.forward = lambda x: plain(x) + Large.apply(weight) * 1e-30 + Large.apply(weight) * 1e-30
    assert diagnose(model) == "the gradient of model.norm.weight is the first non-finite gradient in backward"


def test_diagnoses_transformers_models() -> None:
    model = third_party()
    model.transformer.h[2].mlp.act = Log()
    assert diagnose(model).startswith(
        "transformer.h.2.mlp.act is the first module with finite input and non-finite output"
    )
    model = third_party()
    model.gradient_checkpointing_enable()
    model.transformer.h[1].mlp.act = Square()
    assert diagnose(model).startswith("transformer.h.1.mlp.act is the first module in backward")


def test_reports_a_diagnostic_pass_that_fails() -> None:
    model = failing("llama")

    def fails(*_: Any) -> None:
        raise torch.OutOfMemoryError("no memory\nat all")

    model.model.layers[0].register_forward_hook(fails)
    assert diagnose(model) == "the diagnostic pass failed: no memory"
