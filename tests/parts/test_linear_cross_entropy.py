"""Chunked cross-entropy against the loss over all logits, in float64, and its use in models."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from forgather_llama.configuration_llama import LlamaConfig
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from forgather_core.parts import linear_cross_entropy as part
from forgather_core.parts.linear_cross_entropy import linear_cross_entropy
from tests.plugins.tiny import GROUPED, OPTIONS, LlamaForCausalLM


def plain(hidden: Tensor, weight: Tensor, targets: Tensor, count: int | None = None) -> Tensor:
    """Return the loss by its equation: minus the mean log-softmax at the targets."""
    log_p = (hidden @ weight.T).log_softmax(-1)
    kept = targets >= 0
    picked = log_p.flatten(0, -2)[kept.flatten(), targets.flatten()[kept.flatten()]]
    return -picked.sum() / (kept.sum() if count is None else count)


def inputs(tokens: int, size: int, vocab: int, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor, Tensor]:
    hidden = torch.randn(1, tokens, size, dtype=dtype, requires_grad=True)
    weight = torch.randn(vocab, size, dtype=dtype).requires_grad_()
    targets = torch.randint(vocab, (1, tokens))
    return hidden, weight, targets


@pytest.fixture
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Set chunks of four tokens, so that short texts have several."""
    monkeypatch.setattr(part, "MIN_TOKENS", 4)


@pytest.mark.usefixtures("small_parts")
@given(
    tokens=st.integers(1, 150), size=st.integers(1, 9), vocab=st.integers(2, 40), count=st.none() | st.integers(1, 99),
    ignored=st.floats(0, 0.9), seed=st.integers(0, 999), upstream=st.floats(-3, 3),
)  # fmt: skip
def test_loss_and_gradients_are_the_plain_ones(
    tokens: int, size: int, vocab: int, count: int | None, ignored: float, seed: int, upstream: float
) -> None:
    torch.manual_seed(seed)
    hidden, weight, targets = inputs(tokens, size, vocab)
    drop = torch.rand(targets.shape) < ignored
    drop[0, 0] = False  # a mean needs one target
    targets[drop] = -100
    results = []
    for loss in (
        plain(hidden, weight, targets, count),
        linear_cross_entropy(hidden, weight, num_items_in_batch=count, shift_labels=targets),
    ):
        results.append((loss.detach(), *torch.autograd.grad(loss * upstream, (hidden, weight))))
    for expected, found in zip(*results, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-11, atol=1e-12)


def test_labels_are_shifted_by_one() -> None:
    hidden, weight, labels = inputs(9, 4, 11)
    labels[0, 5] = -100
    expected = plain(hidden[:, :-1], weight, labels[:, 1:])
    torch.testing.assert_close(linear_cross_entropy(hidden, weight, labels), expected)


def test_what_is_no_target_may_hold_anything() -> None:
    hidden, weight, targets = inputs(6, 4, 11)
    with torch.no_grad():
        hidden[0, 2] = torch.inf
    targets[0, 2] = -100
    loss = linear_cross_entropy(hidden, weight, shift_labels=targets)
    loss.backward()
    assert loss.isfinite()
    assert hidden.grad is not None
    assert hidden.grad.isfinite().all()


def test_without_a_target_the_mean_is_not_a_number() -> None:
    hidden, weight, targets = inputs(3, 4, 11)
    assert linear_cross_entropy(hidden, weight, shift_labels=torch.full_like(targets, -100)).isnan()


@pytest.mark.usefixtures("small_parts")
@pytest.mark.parametrize("frozen", [0, 1])
def test_what_is_frozen_gets_no_gradient(frozen: int) -> None:
    hidden, weight, targets = inputs(20, 4, 11)
    pair = [hidden, weight]
    expected = torch.autograd.grad(plain(hidden, weight, targets), pair[1 - frozen])[0]
    pair[frozen].requires_grad_(False)
    linear_cross_entropy(hidden, weight, shift_labels=targets).backward()
    assert pair[frozen].grad is None
    assert pair[1 - frozen].grad is not None
    torch.testing.assert_close(pair[1 - frozen].grad, expected)


def test_a_second_backward_is_an_error_and_no_wrong_number() -> None:
    hidden, weight, targets = inputs(5, 4, 11)
    loss = linear_cross_entropy(hidden, weight, shift_labels=targets)
    loss.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


@pytest.mark.usefixtures("small_parts")
@pytest.mark.parametrize("autocast", [False, True])
def test_in_bfloat16_it_is_as_exact_as_over_all_logits(autocast: bool) -> None:
    torch.manual_seed(2)
    exact = inputs(200, 16, 50)
    hidden, weight = (t.detach().to(torch.float32 if autocast else torch.bfloat16).requires_grad_() for t in exact[:2])
    truth = torch.autograd.grad(plain(*exact), exact[:2])
    errors = []
    for in_parts in (False, True):
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            if in_parts:
                loss = linear_cross_entropy(hidden, weight, shift_labels=exact[2])
            else:
                loss = nn.functional.cross_entropy(nn.functional.linear(hidden, weight)[0].float(), exact[2][0])
        assert loss.dtype == torch.float32
        found = torch.autograd.grad(loss, (hidden, weight))
        errors.append([float((a - b).norm() / b.norm()) for a, b in zip(found, truth, strict=True)])
    assert all(chunked < 1.3 * full for full, chunked in zip(*errors, strict=True))


@pytest.mark.slow
def test_it_compiles_without_a_break() -> None:
    hidden, weight, targets = inputs(30, 4, 11, torch.float32)
    compiled: Any = torch.compile(linear_cross_entropy, backend="aot_eager", fullgraph=True)
    found = torch.autograd.grad(compiled(hidden, weight, shift_labels=targets), (hidden, weight))
    expected = torch.autograd.grad(plain(hidden, weight, targets), (hidden, weight))
    torch.testing.assert_close(found, expected)


@pytest.fixture
def model() -> LlamaForCausalLM:
    torch.manual_seed(0)
    return LlamaForCausalLM(LlamaConfig(**OPTIONS, **GROUPED)).double().train()


@pytest.fixture
def batch() -> dict[str, Tensor]:
    ids = torch.randint(3, 97, (3, 12))
    labels = ids.clone()
    labels[0, :4] = -100
    return {"input_ids": ids, "labels": labels}


def test_a_model_can_be_asked_for_its_loss_alone(model: LlamaForCausalLM, batch: dict[str, Tensor]) -> None:
    with_logits, without = model(**batch), model(**batch, skip_logits=True)
    assert with_logits.logits is not None
    assert without.logits is None
    assert without.loss.item() == pytest.approx(with_logits.loss.item(), rel=1e-6)  # transformers computes in float32
    assert model(batch["input_ids"], skip_logits=True).logits is not None, "there is no loss instead"


def test_the_configuration_asks_for_it_in_training_only(model: LlamaForCausalLM, batch: dict[str, Tensor]) -> None:
    assert model.config.skip_logits is False
    model.config.skip_logits = True
    assert model(**batch).logits is None
    assert model(**batch, skip_logits=False).logits is not None
    assert model.eval()(**batch).logits is not None, "who evaluates looks at them"


def test_a_modified_head_is_called(model: LlamaForCausalLM, batch: dict[str, Tensor]) -> None:
    def hooked() -> None:
        model.lm_head.register_forward_hook(lambda *_: None)

    def wrapped() -> None:
        model.lm_head.forward = model.lm_head.forward

    def another() -> None:
        model.lm_head = nn.Sequential(model.lm_head)

    def with_bias() -> None:
        model.lm_head.bias = nn.Parameter(torch.zeros(97, dtype=torch.float64))

    def own_loss() -> None:
        model.loss_function = lambda logits, **_: logits.sum()

    head = model.lm_head
    for change in (hooked, wrapped, another, with_bias, own_loss):
        change()
        assert model(**batch, skip_logits=True).logits is not None, change.__name__
        model.lm_head = head
        head._forward_hooks.clear()
        vars(head).pop("forward", None)
        head.bias = None
    assert model(**batch, skip_logits=True, logits_to_keep=2).logits.shape[1] == 2
