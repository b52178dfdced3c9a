"""Precision: a model in bfloat16 is the model in float32 but for rounding, at late positions as at early ones.

Products add up in float32, so that of each of some ten results a layer the last rounding alone counts: up to half an
eps, as likely up as down. Errors that do not know of each other add up in squares: half an eps times sqrt(10 (L + 1)),
which holds for initial weights, whose layers do not amplify. Strong weights do, by a factor of their own; but it is the
same everywhere. An angle of RoPE or a distance of ALiBi in bfloat16 is off by up to 4 at position 1000, and everything
with it: far positions, and the end of a long text, may have twice the error of near ones, and not more.

A norm computes in float32 whatever it is given, and rounds twice: what it has normed, and that times its weight.
"""

from __future__ import annotations

import copy
import inspect
import math
import re
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from ..definitions.check import Measured, check, expect
from .subject import ModelUnderTest

LOW = torch.bfloat16
LENGTH, LONG = 96, 640  # whole numbers are exact in bfloat16 up to 256
_A_LAYER = 10  # roundings one after another
_FARTHER = 2.0


@check("precision", cause="positions, norms or softmax computed in the dtype of the weights, where float32 is needed")
def precision(subject: ModelUnderTest) -> Iterator[Measured]:
    """In bfloat16 logits are those of float32 but for rounding, wherever in a long text."""
    last = getattr(subject.text_config, "max_position_embeddings", None) or 2048
    length = min(LENGTH, last)
    text = subject.tokens(2, length)
    far = torch.arange(last - length, last).expand(2, -1)
    long = subject.tokens(2, min(LONG, last))
    fresh = subject.fresh_model().eval()
    allowed = float(torch.finfo(LOW).eps) / 2 * math.sqrt(_A_LAYER * (subject.text_config.num_hidden_layers + 1))
    yield Measured("initial weights", _error(fresh, _low(subject, fresh), text), allowed)
    strong = subject.model()
    ways = {"from_pretrained": _low(subject, strong)}
    if not subject.is_builtin:  # transformers' own promise float32 angles after from_pretrained only
        ways["model.to(bfloat16)"] = subject.model().to(LOW)
    for way, low in ways.items():
        near = _error(strong, low, text)
        there = _error(strong, low, text, position_ids=far)
        what = f"{way}: error at positions {last - length} to {last - 1}, as a part of that at 0 to {length - 1}"
        yield Measured(what, there / near, _FARTHER)
        late = _error(strong, low, long, places=slice(-length, None))
        yield Measured(f"{way}: the same of the end of {long.shape[1]} tokens", late / near, _FARTHER)
        yield from _kept(way, low, strong)
    yield from _norms(strong)


def _low(subject: ModelUnderTest, model: Any) -> Any:
    from transformers import AutoModelForCausalLM

    with subject.scratch() as place:
        saved = subject.save(model, place)
        return AutoModelForCausalLM.from_pretrained(saved, dtype=LOW, **subject.loading).eval()


@torch.no_grad()
def _error(model: Any, low: Any, text: Tensor, places: slice = slice(None), **more: Any) -> float:
    """Root mean square of the difference, as a part of that of the logits."""
    right, found = (one(text, use_cache=False, **more).logits[:, places].double() for one in (model, low))
    return float(((found - right).square().mean() / right.square().mean()).sqrt())


def _kept(way: str, low: Any, model: Any) -> Iterator[Measured]:
    """What the class says is float32 whatever the dtype of the model."""
    patterns = getattr(low, "_keep_in_fp32_modules_strict", None) or ()
    rule = re.compile("|".join(rf"(^|\.){re.escape(pattern)}(\.|$)" for pattern in patterns)) if patterns else None
    for name, parameter in low.named_parameters():
        if rule is not None and rule.search(name):
            exact = parameter.dtype == torch.float32 and torch.equal(parameter, model.get_parameter(name))
            yield expect(f"{way}: {name} is float32, to the last bit", exact, f"{name}: {parameter.dtype}")
        else:
            yield expect(f"{way}: {name} is bfloat16", parameter.dtype == LOW, f"{name}: {parameter.dtype}")


@torch.no_grad()
def _norms(model: nn.Module) -> Iterator[Measured]:
    """The error of each norm by itself, in bfloat16, as a part of its result before a bias."""
    generator = torch.Generator().manual_seed(0)
    for name, module in model.named_modules():
        weight, bias = getattr(module, "weight", None), getattr(module, "bias", None)
        if "Norm" not in type(module).__name__ or not isinstance(weight, Tensor) or weight.dim() != 1:
            continue
        if len(inspect.signature(module.forward).parameters) != 1:  # a gate besides, say
            continue
        low = copy.deepcopy(module).to(LOW)
        x = torch.randn(1, 256, len(weight), generator=generator).to(LOW)
        found, right = low(x).double(), copy.deepcopy(low).float()(x.float()).double()
        size = right.abs() + (2 * bias.abs().double() if isinstance(bias, Tensor) else 0)
        error = float(((found - right).abs() / size.clamp_min(1e-30)).max())
        yield Measured(f"{name}, alone", error, 1.01 * float(torch.finfo(LOW).eps), name)
