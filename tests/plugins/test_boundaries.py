"""Modules exchange the same values as in transformers' own models: tools replace, record and replay modules."""

from __future__ import annotations

import inspect
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from forgather_core.parts.caches import CACHE

from .native import native
from .tiny import CASES, TOLERANCE, difference, tiny, tokens

NATIVE = ["llama", "mistral", "qwen3", "qwen3, half window"]
Call = tuple[tuple[Any, ...], dict[str, Any], Any]  # arguments by position, by name, and the result


def pair(case: str, attention: str = "sdpa") -> tuple[Any, Any]:
    """Return a tiny model, and transformers' model with the same weights."""
    definition, options = CASES[case]
    got = tiny(definition, attention=attention, **options)
    return got, native(definition, got, **options)


def recorded(model: nn.Module, *args: Any, **kwargs: Any) -> dict[str, Call]:
    """Call a model, and return what each of its modules was called with and what it returned."""
    calls: dict[str, Call] = {}
    hooks = [
        module.register_forward_hook(
            lambda _, args, kwargs, out, name=name: calls.update({name: (args, kwargs, out)}),  # type: ignore[misc]
            with_kwargs=True,
        )
        for name, module in model.named_modules()
    ]
    with torch.no_grad():
        model(*args, **kwargs)
    for hook in hooks:
        hook.remove()
    return calls


def differences(path: str, got: Any, want: Any) -> list[str]:
    """Return the differences of two values in structure, shape, dtype or elements."""
    if isinstance(want, Tensor):
        if not isinstance(got, Tensor) or (got.shape, got.dtype) != (want.shape, want.dtype):
            return [f"{path}: {getattr(got, 'shape', got)} instead of {want.shape}"]
        return [path] if want.numel() and not difference(got, want) <= TOLERANCE else []
    if isinstance(want, dict):
        if not isinstance(got, dict) or got.keys() != want.keys():
            return [f"{path}: {sorted(got)} instead of {sorted(want)}"]
        return [found for key in want for found in differences(f"{path}.{key}", got[key], want[key])]
    if isinstance(want, (tuple, list)):
        if type(got) is not type(want) or len(got) != len(want):
            return [f"{path}: {type(got)} instead of {type(want)}"]
        pairs = enumerate(zip(got, want, strict=True))
        return [found for i, (a, b) in pairs for found in differences(f"{path}[{i}]", a, b)]
    return [] if type(got) is type(want) or (got is None) == (want is None) else [f"{path}: {got} not {want}"]


@pytest.mark.few(3)
@pytest.mark.regression("E2")
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("case", NATIVE)
def test_every_module_is_called_as_in_transformers_and_returns_the_same(case: str, attention: str) -> None:
    got, want = pair(case, attention)
    ids = tokens(2, 9)
    mine, right = recorded(got, ids), recorded(want, ids)
    assert sorted(dict(got.named_modules())) == sorted(dict(want.named_modules()))
    assert mine.keys() == right.keys()
    for name in right.keys() - {"", "model", "model.rotary_emb"}:
        args, kwargs, result = mine[name]
        kwargs = {CACHE if key == "cache" else key: value for key, value in kwargs.items()}  # our layers take both
        for what, a, b in zip(("args", "kwargs", "result"), (args, kwargs, result), right[name], strict=True):
            assert differences(f"{name} {what}", a, b) == []
    # transformers' own models differ in how they call this one: by position or by name
    assert differences("rotary_emb result", mine["model.rotary_emb"][2], right["model.rotary_emb"][2]) == []


@pytest.mark.regression("E2")
@pytest.mark.few(2)
@pytest.mark.parametrize("case", NATIVE)
@torch.no_grad()
def test_layers_and_attention_can_be_exchanged_with_those_of_transformers(case: str) -> None:
    got, want = pair(case)
    ids, logits = tokens(2, 9), want(tokens(2, 9)).logits
    for mixed, donor in zip(pair(case), (want, got), strict=True):
        mixed.model.layers[0] = donor.model.layers[0]
        mixed.model.layers[1].self_attn = donor.model.layers[1].self_attn
        mixed.model.rotary_emb = donor.model.rotary_emb
        mixed.model.norm = donor.model.norm
        assert difference(mixed(ids).logits, logits) <= TOLERANCE
        assert mixed.generate(ids, max_new_tokens=3).tolist() == want.generate(ids, max_new_tokens=3).tolist()


@pytest.mark.few(2)
@pytest.mark.parametrize("case", NATIVE)
@torch.no_grad()
def test_a_layer_takes_its_arguments_by_position_and_the_cache_by_both_names(case: str) -> None:
    got, want = pair(case)
    ids = tokens(2, 9)
    calls = recorded(want, ids, use_cache=False)
    for i, layer in enumerate(got.model.layers):
        args, kwargs, expected = calls[f"model.layers.{i}"]
        rope = kwargs["position_embeddings"]
        given = (args[0], kwargs["attention_mask"], kwargs["position_ids"], None, False, rope)
        assert difference(layer(*given), expected) <= TOLERANCE
        named = {"attention_mask": kwargs["attention_mask"], "position_embeddings": rope, "past_key_values": None}
        assert difference(layer(args[0], **named), expected) <= TOLERANCE
        args, kwargs, expected = calls[f"model.layers.{i}.self_attn"]
        given = (kwargs["hidden_states"], rope, kwargs["attention_mask"], None)
        assert difference(got.model.layers[i].self_attn(*given)[0], expected[0]) <= TOLERANCE


@pytest.mark.parametrize("case", NATIVE)
def test_attributes_and_parameters_have_the_names_of_transformers(case: str) -> None:
    got, want = (model.model.layers[0] for model in pair(case))
    for name in ("attention_dropout", "head_dim", "is_causal", "layer_idx", "num_key_value_groups", "scaling"):
        assert getattr(got.self_attn, name) == getattr(want.self_attn, name)
    assert got.input_layernorm.variance_epsilon == want.input_layernorm.variance_epsilon
    assert got.mlp.intermediate_size == want.mlp.intermediate_size
    for mine, right in ((got, want), (got.self_attn, want.self_attn)):
        names = [name for name in inspect.signature(right.forward).parameters if name != "kwargs"]
        names = ["cache" if name == "past_key_values" else name for name in names]
        assert list(inspect.signature(mine.forward).parameters)[: len(names)] == names


@pytest.mark.few(0, slow=2)
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("case", ["deepone", *(case for case in CASES if case != "deepone" and "tied" not in case)])
@torch.no_grad()
def test_an_exported_graph_takes_other_sizes(case: str, attention: str) -> None:
    definition, options = CASES[case]
    model = tiny(definition, attention=attention, **options)
    sizes = {0: torch.export.Dim("batch", max=64), 1: torch.export.Dim("length", min=2, max=64)}
    more = {"use_cache": False}
    with torch.enable_grad():
        program = torch.export.export(
            model, (), {"input_ids": tokens(2, 9)} | more, dynamic_shapes={"input_ids": sizes, "use_cache": None}
        )
    ids = tokens(3, 17)
    assert difference(program.module()(input_ids=ids, **more).logits, model(ids).logits) <= TOLERANCE


@pytest.mark.few(0, slow=1)
@pytest.mark.regression("E3")
@pytest.mark.parametrize("case", ["deepone", "deepone, window", "single_head", "llama"])
def test_onnx_computes_the_same(case: str) -> None:
    pytest.importorskip("onnxscript")
    runtime = pytest.importorskip("onnxruntime")
    definition, options = CASES[case]
    model = tiny(definition, **options)
    sizes = {0: torch.export.Dim("batch", max=64), 1: torch.export.Dim("length", min=2, max=64)}
    given: dict[str, Any] = {"input_ids": tokens(2, 9), "use_cache": False}
    shapes = {"input_ids": sizes, "use_cache": None}
    program = torch.onnx.export(model, (), kwargs=given, dynamic_shapes=shapes, dynamo=True, verbose=False)
    ids = tokens(3, 17)
    session = runtime.InferenceSession(program.model_proto.SerializeToString())
    found = torch.tensor(session.run(None, {"input_ids": ids.numpy()})[0])
    assert difference(found, model(ids).logits) <= 10 * TOLERANCE
