"""Initial values of a parameter depend only on the seed, its name and the index."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from forgather_core.parts.initial_weights import (
    Normal,
    Rule,
    normal,
    ones,
    truncated_normal,
    values,
    xavier_normal,
    zeros,
)
from tests.support.fork_server import ForkServer
from tests.support.processes import run_ranks

SMALL = 96  # elements of a piece in the tests that need many pieces
NORMAL = normal(std=0.5)
RULES: dict[str, Callable[[], Rule]] = {
    "normal": lambda: NORMAL,
    "normal, zero row": lambda: normal(std=0.5, zero_row=-2),
    "truncated": lambda: truncated_normal(std=0.5, cut=0.7),
    "xavier": lambda: xavier_normal(gain=2.0, dims="oik"),
    "constant": ones,
}


@pytest.fixture
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    from forgather_core.parts import weight_pieces

    monkeypatch.setattr(weight_pieces, "PIECE", SMALL)
    monkeypatch.setattr(weight_pieces, "RUN", SMALL // 3)
    monkeypatch.setattr(weight_pieces, "MIN_THREADED", 0)


def filled(
    rule: Rule, *shape: int, seed: int = 3, name: str = "a.weight", dtype: torch.dtype = torch.float32
) -> Tensor:
    tensor = torch.full(shape, torch.nan, dtype=dtype)
    rule.fill(tensor, seed=seed, name=name)
    return tensor


@pytest.mark.usefixtures("small_pieces")
@pytest.mark.parametrize("kind", RULES)
@settings(max_examples=25)
@given(shape=st.tuples(*[st.integers(2, 9)] * 3), ends=st.tuples(st.integers(0, 729), st.integers(0, 729)))
def test_a_slice_has_the_numbers_of_the_whole(kind: str, shape: Any, ends: tuple[int, int]) -> None:
    from forgather_core.parts.weight_pieces import fill_slice

    rule = RULES[kind]()
    whole = filled(rule, *shape).flatten()
    start, end = sorted(min(place, len(whole)) for place in ends)
    out = torch.full((end - start,), torch.nan)
    fill_slice(rule, out, shape, start, seed=3, name="a.weight")
    assert torch.equal(out, whole[start:end])


@pytest.mark.usefixtures("small_pieces")
@pytest.mark.parametrize("kind", RULES)
@settings(max_examples=25)
@given(
    shape=st.tuples(*[st.integers(2, 9)] * 3),
    order=st.permutations(range(3)),
    threads=st.integers(1, 5),
    dtype=st.sampled_from([torch.float64, torch.bfloat16, torch.float16]),
)
def test_strides_threads_and_dtypes_change_no_number(
    kind: str, shape: Any, order: list[int], threads: int, dtype: torch.dtype
) -> None:
    rule = RULES[kind]()
    whole, before = filled(rule, *shape), torch.get_num_threads()
    turned = torch.empty([shape[i] for i in order], dtype=dtype).permute([order.index(i) for i in range(3)])
    assert turned.shape == whole.shape
    torch.set_num_threads(threads)
    try:
        rule.fill(turned, seed=3, name="a.weight")
    finally:
        torch.set_num_threads(before)
    assert torch.equal(turned, whole.to(dtype))


@pytest.mark.usefixtures("small_pieces")
def test_seeds_names_and_pieces_are_different() -> None:
    rule, length = NORMAL, 3 * SMALL
    pieces = [
        tuple(piece.tolist())
        for seed in (0, 1, 2**40)
        for name in ("a", "b", "0")
        for piece in filled(rule, length, seed=seed, name=name).split(SMALL)
    ]
    assert len(set(pieces)) == len(pieces) == 27
    for rule in (truncated_normal(std=1.0), normal(std=1.0), xavier_normal()):
        tensor = filled(rule, 200, 300)
        assert tensor.std() == pytest.approx(rule.std((200, 300)), rel=0.02)
        assert tensor.mean().abs() < 0.02 * rule.std((200, 300))


def test_empty_tensors_scalars_and_single_numbers_are_filled() -> None:
    for rule in (normal(std=1.0), truncated_normal(std=1.0), zeros()):
        for shape in ((), (1,), (1, 1), (0,), (3, 0), (0, 3)):
            assert filled(rule, *shape).isfinite().all()
    assert filled(xavier_normal(), 0, 0).numel() == 0


def test_a_fill_without_a_seed_takes_one_from_the_global_generator() -> None:
    tensors = [torch.empty(50) for _ in range(3)]
    for tensor, seed in zip(tensors, (1, None, 1), strict=True):
        if seed is not None:
            torch.manual_seed(seed)
        normal(std=1.0).fill(tensor)
    assert torch.equal(tensors[0], tensors[2])
    assert not torch.equal(tensors[0], tensors[1])
    state = torch.get_rng_state()
    ones().fill(tensors[0])  # no random number is needed
    values([2.0]).fill(tensors[0])
    normal(std=1.0).fill(tensors[1], seed=4)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.usefixtures("small_pieces")
def test_parameters_that_record_gradients_and_those_of_inference_mode() -> None:
    expected = filled(NORMAL, 400)
    parameter = torch.nn.Parameter(torch.zeros(400))
    NORMAL.fill(parameter, seed=3, name="a.weight")
    assert torch.equal(parameter, expected)
    assert parameter.grad_fn is None
    with torch.inference_mode():
        assert torch.equal(filled(NORMAL, 400), expected)


@pytest.mark.usefixtures("small_pieces")
@pytest.mark.parametrize("threads", [1, 3])
def test_an_error_in_a_piece_is_raised(threads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    class Broken(type(normal(std=1.0))):  # type: ignore[misc]
        def sample(self, elements: Tensor, shape: Any, start: int, generator: torch.Generator) -> None:
            if start >= 2 * SMALL:
                raise RuntimeError("broken on purpose")
            elements.zero_()

    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    with pytest.raises(RuntimeError, match="on purpose"):
        filled(Broken(), 20 * SMALL)


def test_a_rule_that_needs_the_whole_weight_is_seeded_by_name_and_leaves_the_global_generator() -> None:
    from dataclasses import dataclass

    @dataclass(frozen=True)
    class Orthogonal(Rule):
        def std(self, shape: Any) -> float:
            return 1 / math.sqrt(max(shape))

        def draw(self, tensor: Tensor) -> None:
            torch.nn.init.orthogonal_(tensor)

    state = torch.get_rng_state()
    one, low = filled(Orthogonal(), 20, 20), filled(Orthogonal(), 20, 20, dtype=torch.bfloat16)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(low, one.bfloat16())
    torch.testing.assert_close(one @ one.T, torch.eye(20), atol=1e-5, rtol=0)
    assert not torch.equal(one, filled(Orthogonal(), 20, 20, name="b.weight"))
    assert (filled(Orthogonal(zero_row=3), 20, 20)[3] == 0).all()


def test_a_rule_may_override_draw_as_in_the_previous_version() -> None:
    from dataclasses import dataclass

    @dataclass(frozen=True)
    class Halved(Normal):
        def draw(self, tensor: Tensor) -> None:
            super().draw(tensor)
            tensor.mul_(0.5)

    assert filled(Halved(scale=1.0), 200, 300).std() == pytest.approx(0.5, rel=0.02)


def test_fake_tensors_are_left_alone() -> None:
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode():
        tensor = torch.empty(30, 40)
        truncated_normal(std=1.0).fill(tensor)
    assert tensor.shape == (30, 40)


SCRIPT = """
import os
import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, Partial, Replicate, Shard, distribute_tensor
from forgather_core.parts import weight_pieces
from forgather_core.parts.initial_weights import normal, truncated_normal, fan_in_uniform
from forgather_llama.modeling_llama import LlamaConfig, LlamaForCausalLM

dist.init_process_group("gloo")
for tied in (False, True):
    torch.manual_seed(dist.get_rank() and 99)  # the seed of the first process counts
    config = LlamaConfig(vocab_size=301, hidden_size=32, num_attention_heads=2, num_key_value_heads=2,
                         intermediate_size=48, num_hidden_layers=2, tie_word_embeddings=tied)
    with torch.device("meta"):
        model = LlamaForCausalLM(config)
    for layer in model.model.layers:
        fully_shard(layer)
    fully_shard(model)
    model.to_empty(device="cpu")
    model.init_weights()
    full = {name: p.full_tensor() for name, p in model.named_parameters()}
    torch.manual_seed(0)
    whole = LlamaForCausalLM(config)
    for name, parameter in whole.named_parameters():
        assert torch.equal(full[name], parameter), (tied, name)

weight_pieces.PIECE, weight_pieces.RUN = 60, 20
plain = init_device_mesh("cpu", (2,))
square = init_device_mesh("cpu", (1, 2))
for rule in (normal(std=1.0, zero_row=2), truncated_normal(std=1.0), fan_in_uniform()):
    for shape in ((7, 12), (4, 1), (1, 9)):
        if rule.zero_row is not None and shape[0] <= rule.zero_row:
            continue
        expected = torch.empty(shape)
        rule.fill(expected, seed=5, name="w")
        for mesh, placements in (
            (plain, [Shard(0)]), (plain, [Shard(1)]), (plain, [Replicate()]),
            (square, [Replicate(), Shard(0)]), (square, [Shard(0), Shard(1)]), (square, [Shard(1), Shard(1)]),
        ):
            tensor = distribute_tensor(torch.zeros(shape), mesh, placements)
            rule.fill(tensor, seed=5, name="w")
            assert torch.equal(tensor.full_tensor(), expected), (rule, shape, placements)
tensor = DTensor.from_local(torch.zeros(3, 4), plain, [Partial()])
try:
    normal(std=1.0).fill(tensor, seed=5, name="w")
    raise SystemExit("not refused")
except ValueError as error:
    assert "'w' is sharded as" in str(error), error
dist.barrier()
os._exit(0)  # gloo's threads sometimes abort an orderly end
"""


@pytest.mark.slow
def test_shards_have_the_numbers_of_the_whole(tmp_path: Path) -> None:
    script = tmp_path / "shards.py"
    script.write_text(SCRIPT)
    with ForkServer(os.environ) as server:
        done = run_ranks(server, script, cwd=tmp_path, environment=os.environ)
    assert done.returncode == 0, done.stderr[-3000:]
