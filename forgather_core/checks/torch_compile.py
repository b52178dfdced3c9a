"""torch.compile: the model is traced as one graph, which gives the same results.

torch's tracer runs without its compiler, which is slow and not under test. A graph break is an error; logging is not
a graph break. A second text, packed in another way, shows whether the graph treats an input as a constant.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from ..definitions.check import Measured, check, expect
from ..model.difference import relative_difference
from .shared.compared_gradients import compare_gradients, gradients_of
from .shared.inputs import packed_rows, padded_labels, padded_rows
from .shared.model_under_test import LENGTH, ModelUnderTest
from .shared.tolerance import compare, rounding
from .shared.traced import traced


@check(
    "torch-compile",
    cause="Python code that depends on values of tensors or hides them from the tracer",
    quick=False,
)
def torch_compile(subject: ModelUnderTest) -> Iterator[Measured]:
    """torch.compile traces forward with labels as one graph, which has the same logits, loss and gradients."""
    model = subject.randomized_model(**subject.no_dropout).train()
    documents, position_ids = packed_rows(subject)
    text = {"input_ids": documents, "labels": documents}
    padded = [padded_rows(subject, side) for side in ("left", "within", "right")]
    padded.append((padded[0][0], torch.ones_like(padded[0][1])))
    cases: dict[str, list[dict[str, Any]]] = {
        "no positions": [text],
        "padded rows, then whole ones, by the same graph": [
            {"input_ids": ids, "attention_mask": mask, "labels": padded_labels(ids, mask)} for ids, mask in padded
        ],
    }
    if subject.made_by_forgather:  # transformers' own classes test whether anything is packed
        whole = torch.arange(LENGTH).expand(2, -1).contiguous()
        cases["packed documents, then one text, by the same graph"] = [
            text | {"position_ids": position_ids},
            text | {"position_ids": whole},
        ]
    for what, calls in cases.items():
        with traced(model, fullgraph=True) as compiled:
            yield from _compared_calls(model, compiled, what, calls)


def _compared_calls(model: Any, compiled: Any, what: str, calls: list[dict[str, Any]]) -> Iterator[Measured]:
    """Compare calls of a compiled model, up to the first graph break."""
    for call in calls:
        inputs = call | {"use_cache": False}
        model.zero_grad()
        expected = model(**inputs)
        expected.loss.backward()
        gradients = gradients_of(model)
        model.zero_grad()
        try:
            found = compiled(**inputs)
        except torch._dynamo.exc.TorchDynamoException as broken:
            failure = f"{what}: expected one graph, got {_first_lines(broken)}"
            yield expect(f"{what}: one graph", False, failure=failure)
            return
        yield expect(f"{what}: one graph", True)
        found.loss.backward()
        real = inputs["attention_mask"].bool() if "attention_mask" in inputs else ...
        yield compare(f"{what}: logits", found.logits[real], expected.logits[real], rounding(model))
        yield Measured(f"{what}: loss", relative_difference(found.loss, expected.loss), rounding(model))
        yield compare_gradients(f"{what}: gradients", gradients_of(model), gradients, rounding(model))


def _first_lines(error: Exception) -> str:
    return " ".join(str(error).split())[:300]
