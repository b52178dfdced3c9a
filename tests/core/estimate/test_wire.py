"""The link that each axis of a mesh uses, and its time."""

from __future__ import annotations

import pytest

from forgather_core.estimate.collectives import Collective
from forgather_core.estimate.devices import Device
from forgather_core.estimate.wire import Wire, link_speed, strides
from forgather_core.options.parallel import ParallelSizes, parallel_sizes


def device(node: int | None = 8, link: float | None = 100.0, network: float | None = 10.0) -> Device:
    return Device("Mine", 2**30, None, {}, None, node, link, network)


def test_tp_is_the_innermost_axis() -> None:
    assert strides(ParallelSizes(ddp=2, fsdp=4, tp=8)) == {"ddp": 32, "fsdp": 8, "tp": 1}
    assert strides(ParallelSizes(fsdp=4)) == {"fsdp": 1}


@pytest.mark.parametrize(
    ("mesh", "axis", "speed"),
    [
        ("tp=8", "tp", 100),  # one machine
        ("fsdp=8,tp=2", "tp", 100),
        ("fsdp=8,tp=2", "fsdp", 40),  # the four members in a machine share its border
        ("fsdp=16", "fsdp", 80),
        ("fsdp=2,tp=8", "fsdp", 10),  # one member in each machine
        ("ddp=2,fsdp=8", "ddp", 10),
        ("ddp=2,fsdp=2,tp=2", "ddp", 100),
        ("fsdp=4,tp=6", "tp", 60),  # its groups do not end where machines do
    ],
)
def test_an_axis_that_leaves_a_machine_uses_the_network(mesh: str, axis: str, speed: float) -> None:
    sizes = parallel_sizes(mesh)
    assert link_speed(device(), sizes, axis, strides(sizes)[axis]) == speed


def test_the_network_is_no_faster_than_the_link() -> None:
    assert link_speed(device(network=50.0), parallel_sizes("fsdp=16"), "fsdp", 1) == 100


def test_without_a_speed_there_is_no_time() -> None:
    sizes = parallel_sizes("fsdp=16")
    wire = Wire(sizes, [Collective("fsdp", "all-gather", "forward", 16, 1600)])
    assert wire.total() == 1500
    assert wire.seconds(device()) == {"fsdp": 1500 / 80}
    for unknown in (device(node=None), device(link=None), device(network=None)):
        assert wire.seconds(unknown) is None
    assert Wire(parallel_sizes("fsdp=8"), []).seconds(device(network=None)) == {"fsdp": 0}
