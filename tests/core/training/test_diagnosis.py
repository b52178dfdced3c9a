"""Diagnosis names the place of a planted mistake, and preserves the state of the model."""

from __future__ import annotations

import gc
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor, nn
from torch.nn.modules import module as torch_module

from forgather_core.model.build import is_checkpointing
from forgather_core.training.diagnosis import find_nonfinite
from forgather_core.training.exploding import find_exploding_module
from forgather_core.training.module_calls import ModuleCall
from forgather_core.training.optimizers import FusedStepper
from forgather_core.training.random_state import RandomState
from tests.plugins.tiny import CASES, DEFINITIONS, config_of, tiny, tokens

DROPOUT = {"llama": {"attention_dropout": 0.1}, "deepone": {"layer_dropout": 0.1}, "causal_lm": {"layer_dropout": 0.1}}


def failing(definition: str, **options: Any) -> Any:
    return tiny(definition, num_hidden_layers=3, **DROPOUT.get(definition, {}), **options).train()


def third_party() -> Any:
    """Return a transformers model that passes inputs by keyword and ties its weights."""
    torch.manual_seed(0)
    config = transformers.GPT2Config(vocab_size=97, n_embd=32, n_layer=3, n_head=2, n_positions=32)
    return transformers.GPT2LMHeadModel(config).train()


def batch() -> dict[str, Tensor]:
    ids = tokens(2, 12)
    return {"input_ids": ids, "labels": ids}


def bits(state: dict[str, Tensor]) -> dict[str, bytes]:
    return {name: tensor.detach().numpy().tobytes() for name, tensor in state.items()}


@contextmanager
def untouched(model: nn.Module) -> Iterator[None]:
    """Assert that the block preserves everything that a pass could change."""
    for index, parameter in enumerate(model.parameters()):
        parameter.grad = torch.full_like(parameter, index) if index % 3 else None

    def state() -> Any:
        buffers = dict(model.named_buffers())
        grads = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
        hooks = [
            (len(m._forward_hooks), len(m._forward_pre_hooks), len(m._backward_hooks), len(m._backward_pre_hooks))
            for m in model.modules()
        ]
        parameter_hooks = [(p._backward_hooks, len(p._post_accumulate_grad_hooks or ())) for p in model.parameters()]
        switches = [(m.training, getattr(m, "gradient_checkpointing", None)) for m in model.modules()]
        global_hooks = (len(torch_module._global_forward_hooks), len(torch_module._global_forward_pre_hooks))
        values = [bits(dict(named)) for named in (model.state_dict(), buffers, grads)]
        return values, hooks, parameter_hooks, switches, global_hooks, torch.get_rng_state().tolist()

    before = state()
    yield
    assert state() == before


def diagnose(model: Any, inputs: dict[str, Tensor] | None = None) -> str:
    inputs = batch() if inputs is None else inputs
    rng = RandomState.take(torch.device("cpu"))
    torch.rand(7)  # the failed pass has used random numbers
    with untouched(model):
        return find_nonfinite(model, inputs, rng=rng)


class Log(nn.Module):
    """Logarithm of values some of which are negative."""

    def forward(self, x: Tensor) -> Tensor:
        return x.log()


class Square(nn.Module):
    """The absolute value as sqrt(x * x): at 0 the root has an infinite gradient, times 0 is NaN."""

    def forward(self, x: Tensor) -> Tensor:
        at_zero = torch.cat((x[..., :1] * 0, x[..., 1:]), -1)
        return (at_zero * at_zero).sqrt()


class Poison(torch.autograd.Function):
    @staticmethod
    def forward(_ctx: Any, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(_ctx: Any, *gradients: Tensor) -> Tensor:
        return torch.full_like(gradients[0], torch.inf)


class Normed(nn.Module):
    """Divide by a running mean, which backward needs unchanged."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.ones(1))

    def forward(self, x: Tensor) -> Tensor:
        self.mean += x.detach().mean()
        return x / self.mean


class Around(nn.Module):
    """A module with code of its own before and after an inner module."""

    def __init__(self, inner: nn.Module, before: Callable[[Tensor], Tensor], after: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.inner, self.before, self.after = inner, before, after

    def forward(self, x: Tensor) -> dict[str, Any]:
        return {"x": (self.after(self.inner(self.before(x))), None)}


class Unpack(nn.Module):
    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.inner(x)["x"][0]
        return result


def same(x: Tensor) -> Tensor:
    return x


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
        (same, torch.log, ": its own code produces it, after its submodules"),
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
    assert found.endswith("float16 overflows above 65504: try --dtype bfloat16")
    model = failing("llama").half()
    loss = model.loss_function
    model.loss_function = lambda **kwargs: loss(**kwargs) * 1e8
    assert diagnose(model).endswith("(inf, in ToCopyBackward0; float16 overflows above 65504: try --dtype bfloat16)")


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


def test_a_pass_leaves_nothing_in_memory() -> None:
    model = failing("llama")
    leaves = [
        p.expand_as(p).grad_fn.next_functions[0][0] for p in model.parameters()
    ]  # kept alive, as by an optimizer's hook
    model.model.layers[2].mlp.act_fn = Square()
    diagnose(model)
    find_exploding_module(model, batch())
    gc.collect()
    assert leaves
    modules = {found.__module__ for found in (find_nonfinite, find_exploding_module, ModuleCall, RandomState)}
    assert not [one for one in gc.get_objects() if type(one).__module__ in modules]


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


def test_reports_a_diagnostic_pass_that_fails() -> None:
    model = failing("llama")

    def fails(*_: Any) -> None:
        raise torch.OutOfMemoryError("no memory\nat all")

    model.model.layers[0].register_forward_hook(fails)
    assert diagnose(model) == "the diagnostic pass failed: no memory"


@pytest.mark.parametrize("definition", ["llama", "qwen3", "causal_lm"])
def test_names_the_module_that_makes_activations_large(definition: str) -> None:
    model = failing(definition)
    model.model.layers[1].mlp.up_proj.weight.data *= 1000
    with untouched(model):
        found = find_exploding_module(model, batch())
    number = r"[\d.,]+"
    assert re.fullmatch(
        rf"model\.layers\.1\.mlp\.up_proj multiplies its input 1,\d\d\d-fold \(RMS {number} -> 1,\d\d\d; "
        rf"weight std 2\d\d\)",
        found or "",
    )


def test_an_embedding_is_judged_by_its_output_alone() -> None:
    model = failing("deepone")
    model.model.embed_tokens.weight.data *= 100
    found = find_exploding_module(model, batch())
    assert found is not None
    assert found.startswith("model.embed_tokens outputs large values (RMS ")


def test_a_module_without_parameters_is_not_the_origin() -> None:
    class Large(nn.LayerNorm):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) * 1000

    model = failing("llama")
    model.model.norm = Large(32, elementwise_affine=False)
    assert find_exploding_module(model, batch()) is None
    model.model.norm = Large(32)
    assert (find_exploding_module(model, batch()) or "").startswith("model.norm multiplies its input")


def test_examines_the_head() -> None:
    model = failing("llama")
    model.lm_head.weight.data *= 50
    if hasattr(model.config, "skip_logits"):
        model.config.skip_logits = True
    assert (find_exploding_module(model, batch()) or "").startswith("lm_head multiplies its input")


@pytest.mark.parametrize("case", CASES)
def test_no_definitions_initial_weights_explode(case: str) -> None:
    definition, options = CASES[case]
    torch.manual_seed(0)
    model = DEFINITIONS[definition].model(config_of(definition, **options, hidden_size=64, num_hidden_layers=4))
    assert find_exploding_module(model, batch()) is None


def test_transformers_initial_weights_do_not_explode() -> None:
    assert find_exploding_module(third_party(), batch()) is None
