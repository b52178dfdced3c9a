"""Buffers: non-persistent buffers, such as the frequencies of RoPE, are correct however a model is created.

Uninitialized memory is filled with NaN, so that no value is correct by chance.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from ..checkpoint import load_checkpoint, save_checkpoint
from ..definitions.check import Measured, check, expect
from ..model.build import build
from ..options.shared import BuildOptions
from .shared.meta_initialization import fill_with_nan, initialized_after_meta, loaded_after_meta
from .shared.model_under_test import ModelUnderTest
from .shared.position_encoding import rope_types
from .shared.reloaded import align
from .shared.tolerance import compare, different_tensors


@check("buffers", cause="a buffer that only the constructor computes, or that is cast with the weights")
def buffers(subject: ModelUnderTest) -> Iterator[Measured]:
    """Buffers equal those of a new model, to the last bit, after every way to make, load and cast a model."""
    from transformers import AutoModelForCausalLM

    model, text = subject.randomized_model(), subject.tokens(2)
    load = AutoModelForCausalLM.from_pretrained
    with subject.scratch() as directory:
        saved = subject.save(model, directory)
        yield from _compare_buffers("from_pretrained", load(saved, dtype=torch.float32, **subject.loading), model, text)
        low = load(saved, dtype=torch.bfloat16, **subject.loading)
        rounded = not subject.made_by_forgather  # other classes keep angles in float32, and round scales
        yield from _compare_buffers("from_pretrained in bfloat16", low, model, rounded=rounded)
    yield from _compare_buffers("meta, to_empty, init_weights", initialized_after_meta(subject), model)
    with subject.scratch() as directory:
        save_checkpoint(directory / "saved", model, safetensors=True)
        for device in ("cpu", "meta"):
            options = BuildOptions(
                device=device, dtype="float32", no_init_weights=True, attn_implementation=subject.default_attention
            )
            built = build(subject.workdir, options).eval()
            fill_with_nan(built.parameters())
            load_checkpoint(directory / "saved", built, device="cpu", strict=True)
            way = f"build on {device}, no_init_weights, load_checkpoint"
            yield from _compare_buffers(way, built, model, text)
    if subject.made_by_forgather:  # transformers' own classes promise float32 after from_pretrained only
        cast = subject.randomized_model().to(torch.bfloat16)
        yield from _compare_buffers("model.to(bfloat16)", cast, model)
        yield _check_kept(cast, model)
        yield from _compare_buffers("model.to(bfloat16).to(float32)", cast.to(torch.float32), model)
    if subject.made_by_forgather:  # few other models have such buffers right after load_state_dict
        loaded = loaded_after_meta(subject, model.state_dict())
        yield from _compare_buffers("meta, to_empty, load_state_dict", loaded, model, text)
        yield from _compare_rope_types(subject)


def _compare_rope_types(subject: ModelUnderTest) -> Iterator[Measured]:
    """Compare the buffers of a model initialized after meta with those of a new one, for each type of RoPE."""
    for rope in rope_types(subject.text_config):
        try:
            expected = subject.fresh_model(rope_parameters=rope)
        except (ValueError, KeyError):  # the definition does not support this type
            continue
        made = initialized_after_meta(subject, rope_parameters=rope)
        yield from _compare_buffers(f"rope_type {rope['rope_type']}: meta, to_empty, init_weights", made, expected)


def _check_kept(cast: nn.Module, model: nn.Module) -> Measured:
    """Check that parameters that remain float32 in a model of bfloat16 keep their values."""
    kept = {name: p.detach() for name, p in cast.named_parameters() if p.dtype == torch.float32}
    wrong = different_tensors(kept, {name: model.get_parameter(name).detach() for name in kept})
    failure = f"model.to(bfloat16): parameters remain float32, and are rounded: {', '.join(wrong[:3])}"
    return expect("model.to(bfloat16): parameters that remain float32 are equal", not wrong, failure=failure)


def _compare_buffers(
    way: str, found: Any, expected: nn.Module, text: Tensor | None = None, *, rounded: bool = False
) -> Iterator[Measured]:
    """Compare the buffers, and the logits of a text; buffers may be `rounded` to the dtype of the weights."""
    actual, wanted = dict(found.named_buffers()), dict(expected.named_buffers())
    if rounded:
        low = {name for name, one in actual.items() if one.dtype == found.dtype and name in wanted}
        wanted |= {name: wanted[name].to(found.dtype) for name in low}
    wrong = different_tensors(actual, wanted)
    count = len(actual.keys() | wanted.keys())
    yield expect(f"{way}: {count} buffers are equal", not wrong, ", ".join(wrong[:3]))
    if text is not None:
        align(found)
        with torch.no_grad():
            logits, reference = found.eval()(text).logits, expected(text).logits
        yield compare(f"{way}: logits", logits, reference)
