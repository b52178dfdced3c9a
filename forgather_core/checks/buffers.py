"""Buffers: what no checkpoint brings, such as the frequencies of RoPE, is right however a model came to be.

Memory is filled with NaN wherever a way leaves it unset, so that nothing is right by luck.
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
from .subject import ModelUnderTest
from .tolerance import compared, unlike


@check("buffers", cause="a buffer that is computed in the constructor only, or cast with the weights")
def buffers(subject: ModelUnderTest) -> Iterator[Measured]:
    """Buffers are those of a new model, to the last bit, after every way to make, load and cast one."""
    from transformers import AutoModelForCausalLM

    model, text = subject.model(), subject.tokens(2)
    load = AutoModelForCausalLM.from_pretrained
    with subject.scratch() as place:
        saved = subject.save(model, place)
        yield from _same("from_pretrained", load(saved, dtype=torch.float32, **subject.loading), model, text)
        low = load(saved, dtype=torch.bfloat16, **subject.loading)
        yield from _same("from_pretrained in bfloat16", low, model)
    yield from _same("meta, to_empty, init_weights", _from_nothing(subject), model)
    with subject.scratch() as place:
        save_checkpoint(place / "saved", model, safetensors=True)
        for device in ("cpu", "meta"):
            options = BuildOptions(
                device=device, dtype="float32", no_init_weights=True, attn_implementation=subject.default_attention
            )
            built = build(subject.place, options).eval()
            _spoil(built.parameters())
            load_checkpoint(place / "saved", built, device="cpu", strict=True)
            yield from _same(f"build on {device}, no_init_weights, load_checkpoint", built, model, text)
    if not subject.is_builtin:  # transformers' own promise float32 after from_pretrained only
        cast = subject.model().to(torch.bfloat16)
        yield from _same("model.to(bfloat16)", cast, model)
        yield from _same("and back", cast.to(torch.float32), model)


def _from_nothing(subject: ModelUnderTest) -> Any:
    with torch.device("meta"):
        model = subject.fresh_model()
    model.to_empty(device="cpu")
    _spoil([*model.parameters(), *model.buffers()])
    if subject.is_builtin:  # transformers' own skip what they have marked, and say so
        for one in (*model.modules(), *model.parameters(), *model.buffers()):
            one._is_hf_initialized = False
    model.init_weights()
    return model


def _spoil(tensors: Any) -> None:
    with torch.no_grad():
        for tensor in tensors:
            if tensor.is_floating_point() and not tensor.is_meta:
                tensor.fill_(torch.nan)


def _same(way: str, found: Any, expected: nn.Module, text: Tensor | None = None) -> Iterator[Measured]:
    mine, theirs = dict(found.named_buffers()), dict(expected.named_buffers())
    wrong = unlike(mine, theirs)
    yield expect(f"{way}: {len(mine.keys() | theirs.keys())} buffers", not wrong, ", ".join(wrong[:3]))
    if text is not None:
        with torch.no_grad():
            logits, right = found.eval()(text).logits, expected(text).logits
        yield compared(f"{way}: logits", logits, right)
