"""Models with planted mistakes, and assertions that a diagnostic pass preserves their state."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import transformers
from torch import Tensor, nn
from torch.nn.modules import module as torch_module

from forgather_core.training.diagnosis import find_nonfinite
from forgather_core.training.random_state import RandomState
from tests.plugins.tiny import tiny, tokens

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
