"""The native twin: transformers' own class, which a definition names as its equal, computes the same.

At positions on both sides of the longest that the model is made for, where some kinds of RoPE change; and with an eps
so large that it matters where it stands and which norm reads it.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import torch

from ..definitions.check import DoesNotApply, Measured, check, expect
from .subject import ModelUnderTest
from .tolerance import compared, gradients_compared, gradients_of, rounding

EPS = "rms_norm_eps"
LARGE = 0.1


@check("native-twin", cause="an option that one of the two reads differently, or has built in")
def native_twin(subject: ModelUnderTest) -> Iterator[Measured]:
    """transformers' own class, where the definition names one, has the same parameters, logits and gradients."""
    config = subject.config()
    native = getattr(config, "native_model_type", None)
    if native is None:
        raise DoesNotApply("the definition names no class of transformers as its equal")
    for problem in getattr(config, "native_problems", tuple)():
        raise DoesNotApply(problem)
    cases: list[dict[str, Any]] = [{}, {EPS: LARGE}] if hasattr(config, EPS) else [{}]
    for changes in cases:
        model = subject.model(**changes, **subject.no_dropout)
        content = _native(model.config)
        kind = content.get("model_type")
        yield expect("config.json has the native model type", kind == native, kind)
        twin = _twin(native, content)
        mine, theirs = ({n: tuple(p.shape) for n, p in m.named_parameters()} for m in (model, twin))
        other = sorted(dict(mine.items() ^ theirs.items()))
        yield expect(f"the parameters of {type(twin).__name__}", not other, ", ".join(other[:3]))
        if other:
            return
        twin.load_state_dict(model.state_dict())
        yield from _compared(subject, model, twin, "".join(f", {name} {value}" for name, value in changes.items()))


def _native(config: Any) -> dict[str, Any]:
    """config.json as `--native` writes it, without our code."""
    config = copy.deepcopy(config)
    config.native = True
    content: dict[str, Any] = config.to_dict()
    content.pop("auto_map", None)
    return content


def _twin(native: str, content: dict[str, Any]) -> Any:
    from transformers import CONFIG_MAPPING, AutoModelForCausalLM

    return AutoModelForCausalLM.from_config(CONFIG_MAPPING[native](**content), dtype=torch.float32).eval()


def _compared(subject: ModelUnderTest, model: Any, twin: Any, where: str) -> Iterator[Measured]:
    text = subject.tokens(2)
    length, limit = text.shape[1], model.config.max_position_embeddings
    far = torch.arange(length).expand(2, -1) + max(limit - length // 2, 0)
    for what, more in (("logits", {}), (f"logits around position {limit}", {"position_ids": far})):
        with torch.no_grad():
            found, right = (one(text, **more).logits for one in (model, twin))
        yield compared(f"{what}{where}", found, right, rounding(model))
    for one in (model, twin):
        one.train()(text, labels=text).loss.backward()
    yield gradients_compared(f"gradients{where}", gradients_of(model), gradients_of(twin), rounding(model))
