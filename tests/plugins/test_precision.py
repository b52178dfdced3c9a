"""Dtypes of models: weights, buffers and slopes, on meta, in bfloat16, after saving and loading."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch

from forgather_core.model.dtypes import default_dtype

from .cases import ATTENDING, ATTENTION, SLOPES, made
from .tiny import CASES, OPTIONS, ROPE, difference, slopes_of, tiny, tokens

LAYERS = OPTIONS["num_hidden_layers"]
TRAINED_SLOPES = [case for case in SLOPES if "fixed" not in case]
TIES = pytest.mark.parametrize("tied", [False, True], ids=["untied", "tied"])


def check_exact(model: Any, reference: Any, *, dtype: torch.dtype) -> None:
    """Check that weights have the dtype, and that buffers and slopes are float32 with exact values."""
    assert not any(tensor.is_meta for tensor in [*model.buffers(), *model.parameters()])
    assert model.dtype == dtype
    buffers, slopes = dict(reference.named_buffers()), slopes_of(reference)
    assert dict(model.named_buffers()).keys() == buffers.keys()
    for name, buffer in model.named_buffers():
        assert buffer.dtype == torch.float32, name
        assert torch.equal(buffer, buffers[name]), name
    for name, parameter in model.named_parameters():
        assert parameter.dtype == (torch.float32 if name in slopes else dtype), name
        assert parameter.requires_grad == reference.get_parameter(name).requires_grad, name
        if name in slopes:
            assert torch.equal(parameter, slopes[name]), name


KINDS: dict[str, tuple[str, dict[str, Any]]] = CASES | {
    f"llama, {kind}": ("llama", {"rope_parameters": rope}) for kind, rope in ROPE.items()
}


@pytest.mark.few(12)
@pytest.mark.parametrize(("definition", "options"), KINDS.values(), ids=KINDS)
@torch.no_grad()
def test_buffers_and_slopes_are_exact_in_every_way_of_making_a_model(
    definition: str, options: dict[str, Any], tmp_path: Path
) -> None:
    model, ids = tiny(definition, **options), tokens(1, 40)
    cls, bf16 = type(model), torch.bfloat16
    if slopes_of(model):  # no precision below float32 holds them
        assert all((p.bfloat16().float() != p).any() for p in slopes_of(model).values())
    model.save_pretrained(tmp_path / "float32")
    loaded = cls.from_pretrained(tmp_path / "float32")
    check_exact(loaded, model, dtype=torch.float32)
    assert difference(loaded(ids).logits, model(ids).logits) == 0
    check_exact(cls.from_pretrained(tmp_path / "float32", dtype=bf16), model, dtype=bf16)
    low = tiny(definition, **options).to(bf16)
    check_exact(low, model, dtype=bf16)
    low.save_pretrained(tmp_path / "bfloat16")
    check_exact(cls.from_pretrained(tmp_path / "bfloat16", dtype="auto"), model, dtype=bf16)
    check_exact(tiny(definition, **options).half().double(), model, dtype=torch.float64)
    with default_dtype(bf16):
        built = cls(model.config)
        assert built(ids).logits.dtype == bf16
    built.init_weights()
    fresh = cls(model.config)  # with the slopes that its table says
    check_exact(built, fresh, dtype=bf16)


@pytest.mark.parametrize(("definition", "options"), KINDS.values(), ids=KINDS)
@torch.no_grad()
def test_a_model_without_storage_becomes_a_model(definition: str, options: dict[str, Any]) -> None:
    model = tiny(definition, **options)
    with torch.device("meta"):
        empty = type(model)(model.config)
    assert all(parameter.is_meta for parameter in empty.parameters())
    empty.to_empty(device="cpu")
    for name, buffer in empty.named_buffers():
        assert torch.equal(buffer, model.get_buffer(name))
    empty.init_weights()
    check_exact(empty, type(model)(model.config), dtype=torch.float32)
    assert (empty.lm_head.weight is empty.model.embed_tokens.weight) == model.config.tie_word_embeddings
    empty.load_state_dict(model.state_dict())
    assert difference(empty.eval()(tokens(1, 40)).logits, model(tokens(1, 40)).logits) == 0


@pytest.mark.parametrize("case", [case for case in CASES if "deepone" in case])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_slopes_are_trained_if_trainable(case: str, dtype: torch.dtype, tmp_path: Path) -> None:
    trained = "fixed" not in case
    model = made(case)
    model.save_pretrained(tmp_path)
    for one in (model, type(model).from_pretrained(tmp_path, dtype=dtype), copy.deepcopy(model).to(dtype)):
        slopes = slopes_of(one)
        assert len(slopes) == LAYERS
        assert all(p.requires_grad == trained for p in slopes.values())
        one.train()(tokens(1, 9), labels=tokens(1, 9)).loss.backward()
        assert all((p.grad is not None) == trained for p in slopes.values())
        assert all(p.grad.dtype == torch.float32 for p in slopes.values() if trained)


@pytest.mark.parametrize("attention", ATTENTION)
@pytest.mark.parametrize("case", ATTENDING)
@torch.no_grad()
def test_bfloat16_is_close_to_float32(case: str, attention: str) -> None:
    ids = tokens(2, 30)
    model = type(made(case))(made(case, attention=attention).config).eval()  # the weights it begins with
    logits = model(ids).logits
    low = model.to(torch.bfloat16)(ids).logits
    assert low.dtype == torch.bfloat16
    assert 0 < difference(low, logits) <= 2**-5 * logits.abs().max().item()
