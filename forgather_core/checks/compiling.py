"""torch.compile: the model is traced as one graph, and the graph computes what the model does.

torch's tracer runs without its compiler, which takes long and is not what is tried here. A graph that breaks is an
error, and so is one that bakes in a value: it is run on a second text, packed otherwise, too. What is said to a log is
no break.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from ..definitions.check import Measured, check, expect
from .packing import packed
from .subject import LENGTH, ModelUnderTest
from .tolerance import compared, gradients_compared, gradients_of, relative, rounding


@check("compile", cause="Python that looks at the values of tensors, or that hides them from the tracer", quick=False)
def compiling(subject: ModelUnderTest) -> Iterator[Measured]:
    """torch.compile takes forward with labels as one graph, which has the same logits, loss and gradients."""
    from transformers.utils import logging

    model = subject.model(**subject.no_dropout).train()
    documents, position_ids = packed(subject)
    whole = torch.arange(LENGTH).expand(2, -1).contiguous()
    cases: dict[str, list[dict[str, Any]]] = {"no positions": [{}]}
    if not subject.is_builtin:  # transformers' own look whether anything is packed
        cases["documents, and one text by the same graph"] = [{"position_ids": position_ids}, {"position_ids": whole}]
    for what, calls in cases.items():
        torch._dynamo.reset()  # type: ignore[no-untyped-call]
        compiled: Any = torch.compile(model, backend="eager", fullgraph=True)
        for more in calls:
            inputs = {"input_ids": documents, "labels": documents, "use_cache": False} | more
            model.zero_grad()
            expected = model(**inputs)
            expected.loss.backward()
            gradients = gradients_of(model)
            model.zero_grad()
            try:
                with torch._dynamo.config.patch(ignore_logging_functions={logging.warning_once}):
                    found = compiled(**inputs)
            except torch._dynamo.exc.TorchDynamoException as broken:
                yield expect(f"{what}: one graph", False, _first_lines(broken))
                break
            yield expect(f"{what}: one graph", True)
            found.loss.backward()
            yield compared(f"{what}: logits", found.logits, expected.logits, rounding(model))
            yield Measured(f"{what}: loss", relative(found.loss, expected.loss), rounding(model))
            yield gradients_compared(f"{what}: gradients", gradients_of(model), gradients, rounding(model))
    torch._dynamo.reset()  # type: ignore[no-untyped-call]


def _first_lines(error: Exception) -> str:
    return " ".join(str(error).split())[:300]
