"""Training: gradients, gradient checkpointing, dropout, wrapped layers, compilation."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper

from forgather_core.parts.caches import CACHE

from .cases import ATTENDING, ATTENTION, SLOPES, empty_cache, made
from .compiled import compiled_model
from .tiny import CASES, DEFINITIONS, OPTIONS, TOLERANCE, difference, slopes_of, tokens

LAYERS = OPTIONS["num_hidden_layers"]
TRAINED_SLOPES = [case for case in SLOPES if "fixed" not in case]
TIES = pytest.mark.parametrize("tied", [False, True], ids=["untied", "tied"])


@pytest.mark.parametrize("attention", ATTENTION)
@pytest.mark.parametrize("case", CASES)
def test_every_parameter_that_is_trained_has_a_gradient(case: str, attention: str) -> None:
    model, ids = made(case, attention=attention).train(), tokens(2, 12)
    mask = torch.ones_like(ids)
    mask[0, :3] = 0
    model(ids, attention_mask=mask, labels=ids.masked_fill(mask == 0, -100)).loss.backward()
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            assert "fixed" in case
            assert name.endswith("slopes")
            continue
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.abs().sum() > 0, name


@pytest.mark.parametrize("attention", ATTENTION)
@pytest.mark.parametrize("case", TRAINED_SLOPES)
def test_the_gradient_of_a_slope_equals_finite_differences(case: str, attention: str) -> None:
    model, ids = made(case, attention=attention), tokens(2, 12)
    for layer in model.model.layers:
        layer.mlp.act_fn = nn.SiLU()  # a difference says nothing across the kink of a ReLU
    direction = torch.randn(2, 12, OPTIONS["vocab_size"], generator=torch.Generator().manual_seed(4))
    (model(ids).logits * direction).sum().backward()
    step, sums = 3e-3, []
    for slope in slopes_of(model).values():
        with torch.no_grad():
            for sign in (1, -2):
                slope[0] += sign * step
                sums.append((model(ids).logits * direction).double().sum().item())
            slope[0] += step
        plus, minus = sums[-2:]
        assert abs(slope.grad[0].item()) > 0.1
        assert slope.grad[0].item() == pytest.approx((plus - minus) / (2 * step), rel=0.01)


@pytest.mark.few(28)
@pytest.mark.parametrize("reentrant", [False, True], ids=["", "reentrant"])
@pytest.mark.parametrize("attention", ATTENTION)
@pytest.mark.parametrize("case", [*ATTENDING, "causal_lm, dropouts"])
def test_gradient_checkpointing_changes_nothing(case: str, attention: str, reentrant: bool) -> None:
    more: dict[str, Any] = {"attention": attention}
    if case == "causal_lm, dropouts":
        case = "causal_lm"
        more |= {f"{name}_dropout": 0.3 for name in DROPOUTS[case]}
    plain, recomputing = made(case, **more).train(), made(case, **more).train()
    recomputing.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": reentrant})
    runs: list[int] = []
    recomputing.model.layers[0].self_attn.register_forward_hook(lambda *_: runs.append(1))
    ids, losses = tokens(2, 20), []
    for model in (plain, recomputing):
        torch.manual_seed(3)
        losses.append(model(ids, labels=ids).loss)
        losses[-1].backward()
    assert len(runs) == 2  # forward, and again in backward
    pairs = [losses, *((p.grad, q.grad) for p, q in zip(plain.parameters(), recomputing.parameters(), strict=True))]
    for mine, other in pairs:
        assert (mine is None) == (other is None)
        if mine is not None and attention == "eager":
            assert torch.equal(mine, other)
        elif mine is not None:  # sdpa takes another way where nothing asks for gradients, and rounds otherwise
            assert difference(mine, other) <= TOLERANCE / 10


@pytest.mark.parametrize("case", DEFINITIONS)
def test_gradient_checkpointing_goes_without_a_cache(case: str) -> None:
    model, ids = made(case), tokens(1, 9)
    filled = model(ids[:, :5], use_cache=True)[CACHE]
    model.train().gradient_checkpointing_enable()
    assert model(ids, use_cache=True).get(CACHE) is None
    assert model(ids, past_key_values=empty_cache("dynamic", model)).get(CACHE) is None
    with pytest.raises(ValueError, match="does not support training with a filled cache"):
        model(ids[:, 5:], past_key_values=filled)
    model.eval()  # it is for training alone
    assert model(ids, use_cache=True)[CACHE].get_seq_length() == 9


DROPOUTS = {
    "causal_lm": ("attention", "embedding", "layer", "activation"),
    "deepone": ("attention", "embedding", "layer"),
    "llama": ("attention",),
    "mistral": ("attention",),
    "qwen3": ("attention",),
    "single_head": ("attention", "embedding", "layer"),
}


@pytest.mark.parametrize("attention", ATTENTION)
@pytest.mark.parametrize(
    ("definition", "kind"), [(definition, kind) for definition, kinds in DROPOUTS.items() for kind in kinds]
)
@torch.no_grad()
def test_a_dropout_acts_in_training_only(definition: str, kind: str, attention: str) -> None:
    without, ids = made(definition, attention=attention), tokens(1, 20)
    model = made(definition, attention=attention, **{f"{kind}_dropout": 0.5})
    assert difference(model(ids).logits, without(ids).logits) == 0
    assert difference(without.train()(ids).logits, model(ids).logits) == 0
    model.train()
    assert difference(model(ids).logits, model(ids).logits) > 0.01


@pytest.mark.parametrize("definition", [definition for definition, kinds in DROPOUTS.items() if "layer" in kinds])
@torch.no_grad()
def test_dropout_applies_to_both_residual_branches(definition: str) -> None:
    model = made(definition, layer_dropout=0.5).train()
    made_by: list[Tensor] = []
    dropped: list[Tensor] = []
    for layer in model.model.layers:
        layer.self_attn.register_forward_hook(lambda _, args, out: made_by.append(out[0]))
        layer.mlp.register_forward_hook(lambda _, args, out: made_by.append(out))
        layer.drop.register_forward_hook(lambda _, args, out: dropped.append(args[0]))
    model(tokens(1, 9))
    assert len(dropped) == 2 * LAYERS
    assert all(one is other for one, other in zip(made_by, dropped, strict=True))


def test_every_dropout_is_tested() -> None:
    for definition, kinds in DROPOUTS.items():
        options = vars(made(definition).config)
        assert {name for name in options if name.endswith("_dropout")} == {f"{kind}_dropout" for kind in kinds}


@pytest.mark.parametrize("wrapper", ["torch's", "a trainer's own"])
@pytest.mark.parametrize("case", ATTENDING)
@torch.no_grad()
def test_layers_can_be_wrapped(case: str, wrapper: str) -> None:
    model, ids = made(case), tokens(2, 9)
    logits = model(ids).logits
    wrap = checkpoint_wrapper if wrapper == "torch's" else Watched
    for i in range(LAYERS):
        model.model.layers[i] = wrap(model.model.layers[i])
    assert difference(model(ids).logits, logits) == 0


class Watched(nn.Module):
    """A wrapper as trainers use it: not a Block, but contains one."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        return self.inner(*args, **kwargs)


@pytest.mark.few(0, slow=2)
@pytest.mark.parametrize("case", ATTENDING)
def test_one_graph_without_breaks(case: str) -> None:
    model, ids = made(case).train(), tokens(2, 12)
    compiled = compiled_model(model, case)
    expected = model(ids, labels=ids, use_cache=False).loss
    expected.backward()
    gradients = {name: p.grad for name, p in model.named_parameters() if p.requires_grad}
    model.zero_grad()
    loss = compiled(ids, labels=ids, use_cache=False).loss
    assert abs(loss.item() - expected.item()) <= TOLERANCE
    loss.backward()
    for name, gradient in gradients.items():
        assert difference(model.get_parameter(name).grad, gradient) <= TOLERANCE, name
