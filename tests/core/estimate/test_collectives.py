"""Costs of collective operations in a ring."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from forgather_core.errors import BuildError
from forgather_core.estimate.collectives import Collective, collective_of, summed


@pytest.mark.parametrize(
    ("kind", "bytes_"), [("all-gather", 600), ("reduce-scatter", 600), ("all-to-all", 600), ("all-reduce", 1200)]
)
def test_a_ring_of_four_moves_three_quarters(kind: str, bytes_: int) -> None:
    assert Collective("fsdp", kind, "forward", 4, 800).wire_bytes == bytes_


def test_a_summary_has_one_row_for_each_axis_kind_and_phase() -> None:
    gather = Collective("fsdp", "all-gather", "forward", 2, 10)
    again = Collective("fsdp", "all-gather", "backward", 2, 10)
    reduce = Collective("tp", "all-reduce", "backward", 2, 100)
    assert summed([gather, gather, reduce, again]) == [
        {"axis": "fsdp", "kind": "all-gather", "phase": "forward", "calls": 2, "payload": 20, "bytes": 10.0},
        {"axis": "tp", "kind": "all-reduce", "phase": "backward", "calls": 1, "payload": 100, "bytes": 100.0},
        {"axis": "fsdp", "kind": "all-gather", "phase": "backward", "calls": 1, "payload": 10, "bytes": 5.0},
    ]


def test_other_operators_are_no_collectives_and_unknown_collectives_are_an_error() -> None:
    assert collective_of(torch.ops.aten.mm.default, (), {}, "forward") is None
    wait: Any = torch.ops._c10d_functional.wait_tensor.default
    assert collective_of(wait, (), {}, "forward") is None
    broadcast: Any = torch.ops.c10d.broadcast_.default
    with pytest.raises(BuildError, match="broadcast_"):
        collective_of(broadcast, (), {}, "forward")
