"""Tests of the attention implementations that checks use."""

from __future__ import annotations

from typing import Any

import torch

from forgather_core.checks.shared.implementations import uncompiled


def test_a_function_made_while_uncompiled_is_compiled_outside() -> None:
    """transformers keeps the function that it compiles, for every later call in the process."""
    graphs = []

    def backend(graph: Any, _: Any) -> Any:
        graphs.append(graph)
        return graph.forward

    with uncompiled():
        functions = (torch.compile(torch.relu, backend=backend), torch.compile(backend=backend)(torch.sigmoid))
        for function in functions:
            function(torch.ones(2))
        assert not graphs
    for number, function in enumerate(functions, 1):
        function(torch.ones(2))
        function(torch.ones(2))
        assert len(graphs) == number
    torch._dynamo.reset()


def test_a_module_stays_a_module_while_uncompiled() -> None:
    """A model may assign a compiled layer to its attribute."""
    model = torch.nn.Sequential(torch.nn.Linear(2, 2))
    with uncompiled():
        model[0] = torch.compile(model[0], backend="eager")
        model(torch.ones(2))


def test_compile_is_restored() -> None:
    """After an error, too, `torch.compile` is torch's."""
    original = torch.compile
    try:
        with uncompiled(), uncompiled():
            raise ValueError
    except ValueError:
        assert torch.compile is original
