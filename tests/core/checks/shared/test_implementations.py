"""Tests of the attention implementations that checks use."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

import pytest
import torch

from forgather_core.checks.shared import implementations
from forgather_core.checks.shared.implementations import uncompiled


class Compiler:
    """A backend of torch.compile that counts graphs."""

    def __init__(self) -> None:
        self.graphs = 0

    def __call__(self, graph: Any, _: Any) -> Any:
        self.graphs += 1
        return graph.forward


@pytest.fixture
def compiler() -> Iterator[Compiler]:
    torch._dynamo.reset()
    yield Compiler()
    torch._dynamo.reset()


def _nested(compiler: Compiler) -> Any:
    with uncompiled():
        return torch.compile(torch.sigmoid, backend=compiler)


MAKE: list[Callable[[Compiler], Any]] = [
    lambda compiler: torch.compile(torch.sigmoid, backend=compiler),
    lambda compiler: torch.compile(backend=compiler)(torch.sigmoid),
    _nested,
]


@pytest.mark.parametrize("make", MAKE)
def test_a_function_made_while_uncompiled_is_compiled_once_outside(make: Any, compiler: Compiler) -> None:
    """transformers keeps the function that it compiles, for every later call in the process."""
    with uncompiled(), mock.patch.object(implementations, "_compile_now", side_effect=torch.compile) as compiles:
        function = make(compiler)
        function(torch.ones(2))
    assert not compiles.called
    assert compiler.graphs == 0
    for _ in range(2):
        with mock.patch.object(torch, "compile", wraps=torch.compile):
            function(torch.ones(2))  # in another context that replaces torch.compile
    assert compiler.graphs == 0
    for _ in range(2):
        function(torch.ones(2))
    assert compiler.graphs == 1


def test_a_function_made_while_uncompiled_can_be_traced(compiler: Compiler) -> None:
    with uncompiled():
        function = torch.compile(torch.sigmoid, backend="eager")
    whole = torch.compile(lambda x: function(x) + 1, backend=compiler, fullgraph=True)
    assert torch.equal(whole(torch.ones(2)), torch.sigmoid(torch.ones(2)) + 1)
    assert compiler.graphs == 1


FLEX = """
import sys
import torch
from transformers import LlamaConfig, LlamaForCausalLM
from forgather_core.checks.shared.implementations import uncompiled

sizes = dict(vocab_size=32, hidden_size=32, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2)
model = LlamaForCausalLM(LlamaConfig(**sizes, attn_implementation="flex_attention"))
with uncompiled(), torch.no_grad():
    model(torch.ones(1, 9, dtype=torch.long), attention_mask=torch.ones(1, 9))
sys.exit("torch._inductor.compile_fx" in sys.modules)
"""


def test_flex_attention_does_not_import_the_compiler() -> None:
    assert subprocess.run([sys.executable, "-c", FLEX], check=False).returncode == 0


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
