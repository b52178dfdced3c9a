"""Precision: a model in bfloat16 differs from that in float32 by rounding only, at late positions as at early ones.

Products are summed in float32, so only the last rounding of about ten results per layer counts: up to half an eps, as
likely up as down. The squares of independent errors add up, to half an eps times sqrt(10 (L + 1)) in total. This holds
for initial weights, whose layers do not amplify. Random weights amplify errors, by the same factor at all positions. An
angle of RoPE or a distance of ALiBi in bfloat16 is off by up to 4 at position 1000, which affects everything computed
from it. So the error at far positions, and at the end of a long text, may be at most twice that of near ones.

A norm computes in float32 for any input dtype, and rounds twice: the normalized values, and their product with the
weight.
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
from ..filesystem.printable import dtype_of
from ..model.difference import rms_difference
from .shared.cached_forward import has_positions
from .shared.model_under_test import ModelUnderTest
from .shared.position_encoding import last_position
from .shared.reloaded import reloaded
from .shared.selection import Selections, same_selections

LOW = torch.bfloat16
LENGTH, LONG = 96, 640  # tokens; integers are exact in bfloat16 up to 256
_MAX_ERROR = 0.5  # a third of the error of unrelated logits
_ROUNDED = 3  # weights, inputs and results of products, of a model that amplifies errors
_ROUNDINGS = 10  # roundings in sequence, in each layer
_MAX_GROWTH = 2.0  # maximum ratio of the error at far positions to that at near ones


@check("precision", cause="positions, norms or softmax computed in the dtype of the weights instead of float32")
def precision(subject: ModelUnderTest) -> Iterator[Measured]:
    """Logits in bfloat16 and autocast differ from float32 by rounding only, at every position of a long text."""
    last = last_position(subject) or 2048
    length = min(LENGTH, last)
    text = subject.tokens(2, length)
    far = torch.arange(last - length, last).expand(2, -1)
    long = subject.tokens(2, min(LONG, last))
    fresh = subject.fresh_model().eval()
    allowed = float(torch.finfo(LOW).eps) / 2 * math.sqrt(_ROUNDINGS * (subject.text_config.num_hidden_layers + 1))
    if not subject.made_by_forgather:
        allowed = max(allowed, min(_ROUNDED * _effect_of_rounding(fresh, text), _MAX_ERROR))
    yield Measured("initial weights", _error(fresh, reloaded(subject, fresh, LOW), text), allowed)
    randomized = subject.randomized_model()
    ways = {"from_pretrained": reloaded(subject, randomized, LOW)}
    if subject.made_by_forgather:  # transformers' own classes promise float32 angles after from_pretrained only
        ways["model.to(bfloat16)"] = subject.randomized_model().to(LOW)
    for way, low in ways.items():
        yield from _check_dtypes(way, low, randomized, fixed=not subject.made_by_forgather)
    yield _check_dtype_of_config(subject)
    for way, low in {**ways, "autocast(bfloat16)": torch.autocast("cpu", LOW)(randomized.forward)}.items():
        near = _error(randomized, low, text)
        if has_positions(subject, randomized):
            distant = _error(randomized, low, text, position_ids=far)
            what = f"{way}: error at positions {last - length} to {last - 1}, relative to that at 0 to {length - 1}"
            yield Measured(what, distant / near, _MAX_GROWTH)
        late = _error(randomized, low, long, positions=slice(-length, None))
        what = f"{way}: error at the end of {long.shape[1]} tokens, relative to that at 0 to {length - 1}"
        yield Measured(what, late / near, _MAX_GROWTH)
    yield from _check_norms(randomized)


def _effect_of_rounding(model: Any, text: Tensor) -> float:
    """Return the error of logits if only the weights are rounded, and everything is computed in float32."""
    rounded = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in rounded.parameters():
            parameter.copy_(parameter.to(LOW))
    return _error(model, rounded, text)


@torch.no_grad()
def _error(model: Any, low: Any, text: Tensor, positions: slice = slice(None), **more: Any) -> float:
    """Return the root mean square of the difference of two models or their calls, relative to that of the logits.

    Both select the same experts: rounding may decide between two with nearly equal scores.
    """
    with Selections() as selections:
        expected = model(text, use_cache=False, **more).logits[:, positions]
    with same_selections(selections.found):
        found = low(text, use_cache=False, **more).logits[:, positions]
    return rms_difference(found, expected)


def _check_dtypes(way: str, low: Any, model: Any, *, fixed: bool = False) -> Iterator[Measured]:
    """Check that parameters are bfloat16, except for those that the class keeps in float32.

    Args:
        way: How the model was made.
        low: The model in bfloat16.
        model: The model in float32.
        fixed: Whether the code may fix the dtype of a module, as that of other classes does.
    """
    rule = _kept_in_float32(low)
    for name, parameter in low.named_parameters():
        if (rule is not None and rule.search(name)) or (fixed and parameter.dtype == torch.float32):
            exact = parameter.dtype == torch.float32 and torch.equal(parameter, model.get_parameter(name))
            got = "other values" if parameter.dtype == torch.float32 else dtype_of(parameter.dtype)
            failure = f"{way}: {name}: expected the values of the float32 model, got {got}"
            yield expect(f"{way}: {name} is float32, to the last bit", exact, failure=failure)
        else:
            failure = f"{way}: {name}: expected bfloat16, got {dtype_of(parameter.dtype)}"
            yield expect(f"{way}: {name} is bfloat16", parameter.dtype == LOW, failure=failure)


def _check_dtype_of_config(subject: ModelUnderTest) -> Measured:
    """Check that `from_config` builds a model in the dtype of the configuration."""
    from transformers import AutoModelForCausalLM

    config = subject.config()
    config.dtype = LOW
    model = AutoModelForCausalLM.from_config(config, **subject.loading)
    kept = _kept_in_float32(model)
    wrong = [name for name, p in model.named_parameters() if p.dtype != LOW and not (kept and kept.search(name))]
    if not subject.made_by_forgather:  # other classes may fix the dtype of a module in their code
        wrong = wrong if len(wrong) == len(list(model.parameters())) else []
    what = "from_config builds a model in the dtype of the configuration"
    failure = (
        f"from_config of a configuration with dtype bfloat16 makes weights of another dtype: {', '.join(wrong[:3])}"
    )
    return expect(what, not wrong, failure=failure)


def _kept_in_float32(model: Any) -> re.Pattern[str] | None:
    """Return the pattern of the parameters that the class keeps in float32, or None if there are none."""
    patterns = getattr(model, "_keep_in_fp32_modules_strict", None) or ()
    return re.compile("|".join(rf"(^|\.){re.escape(pattern)}(\.|$)" for pattern in patterns)) if patterns else None


@torch.no_grad()
def _check_norms(model: nn.Module) -> Iterator[Measured]:
    """Check the error of each norm by itself, in bfloat16, relative to its result before the bias."""
    generator = torch.Generator().manual_seed(0)
    for name, module in model.named_modules():
        weight, bias = getattr(module, "weight", None), getattr(module, "bias", None)
        if "Norm" not in type(module).__name__ or not isinstance(weight, Tensor) or weight.dim() != 1:
            continue
        if len(inspect.signature(module.forward).parameters) != 1:  # for example, a gate
            continue
        low = copy.deepcopy(module).to(LOW)
        x = torch.randn(1, 256, len(weight), generator=generator).to(LOW)
        found, expected = low(x).double(), copy.deepcopy(low).float()(x.float()).double()
        size = expected.abs() + (2 * bias.abs().double() if isinstance(bias, Tensor) else 0)
        error = float(((found - expected).abs() / size.clamp_min(1e-30)).max())
        yield Measured(f"{name} by itself", error, 1.01 * float(torch.finfo(LOW).eps), name)
