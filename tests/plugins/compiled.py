"""Compiled models: traced as one graph, and by the C++ compiler in one case, since that takes ten times as long."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from forgather_core.checks.shared.implementations import uncompiled

COMPILED = "llama"  # the case that the compiler translates


def compiled_model(model: nn.Module, case: str) -> Any:
    """Compile a model without graph breaks."""
    torch._dynamo.reset()
    return torch.compile(model, fullgraph=True, backend="inductor" if case == COMPILED else "aot_eager")


@contextmanager
def compiled_flex_attention(case: str) -> Iterator[None]:
    """Compile flex_attention in one case, and run its equations without compilation in the others."""
    torch._dynamo.reset()
    if case == COMPILED:
        yield
    else:
        with uncompiled():
            yield
