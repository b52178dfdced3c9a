"""Native parity: a definition and the class of transformers that it names as equivalent give the same results.

The comparison includes positions on both sides of the maximum, where some types of RoPE change. A large eps shows a
difference in the place where eps is added, and in the norms that read it.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from functools import partial
from typing import Any

import torch

from ..definitions import contracts
from ..definitions.check import DoesNotApply, Measured, check, expect
from .shared.compared_gradients import Recomputation, compare_gradients, loss_gradients
from .shared.model_under_test import ModelUnderTest
from .shared.tolerance import LARGE_EPS, compare, rounding

EPS = "rms_norm_eps"


@check("native-parity", cause="an option that one of the two classes reads differently or hard-codes")
def native_parity(subject: ModelUnderTest) -> Iterator[Measured]:
    """transformers' own class, if the definition names one, has the same parameters, logits and gradients."""
    config = subject.config()
    native_type = contracts.native_model_type(config)
    if native_type is None:
        raise DoesNotApply("the definition has no equivalent class in transformers")
    for problem in contracts.native_problems(config):
        raise DoesNotApply(problem)
    cases: list[dict[str, Any]] = [{}, {EPS: LARGE_EPS}] if hasattr(config, EPS) else [{}]
    for changes in cases:
        model = subject.randomized_model(**changes, **subject.no_dropout)
        content = _native_content(model.config)
        kind = content.get("model_type")
        failure = f"model_type of config.json: expected '{native_type}', got '{kind}'"
        yield expect("config.json has the native model type", kind == native_type, failure=failure)
        native = _native_model(native_type, content)
        actual, wanted = ({n: tuple(p.shape) for n, p in m.named_parameters()} for m in (model, native))
        other = sorted(dict(actual.items() ^ wanted.items()))
        yield expect(f"the parameters equal those of {type(native).__name__}", not other, ", ".join(other[:3]))
        if other:
            return
        native.load_state_dict(model.state_dict())
        where = "".join(f", {name} {value}" for name, value in changes.items())
        yield from _compare_models(subject, model, native, where)


def _native_content(config: Any) -> dict[str, Any]:
    """Return the content of config.json as `--native` writes it, without `auto_map`."""
    config = copy.deepcopy(config)
    config.native = True
    content: dict[str, Any] = config.to_dict()
    content.pop("auto_map", None)
    return content


def _native_model(native_type: str, content: dict[str, Any]) -> Any:
    from transformers import CONFIG_MAPPING, AutoModelForCausalLM

    return AutoModelForCausalLM.from_config(CONFIG_MAPPING[native_type](**content), dtype=torch.float32).eval()


def _compare_models(subject: ModelUnderTest, model: Any, native: Any, where: str) -> Iterator[Measured]:
    text = subject.tokens(2)
    length, limit = text.shape[1], model.config.max_position_embeddings
    far = torch.arange(length).expand(2, -1) + max(limit - length // 2, 0)
    for what, more in (("logits", {}), (f"logits around position {limit}", {"position_ids": far})):
        with torch.no_grad():
            found, expected = (one(text, **more).logits for one in (model, native))
        yield compare(f"{what}{where}", found, expected, rounding(model))
    found, expected = (loss_gradients(one.train(), input_ids=text, labels=text) for one in (model, native))
    recomputed = Recomputation(model, partial(loss_gradients, model, input_ids=text, labels=text))
    yield compare_gradients(f"gradients{where}", found, expected, rounding(model), recomputed)
