"""The bytes that a step moves over the links of a device of a mesh, and the time that they take."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..options.parallel import KINDS, ParallelSizes
from .collectives import Collective, summed
from .devices import Device


def strides(sizes: ParallelSizes) -> dict[str, int]:
    """Return the distance between the ranks of a group, for each axis of a mesh with more than one device."""
    distance = {"tp": 1, "fsdp": sizes.tp, "ddp": sizes.tp * sizes.fsdp}
    return {kind: distance[kind] for kind in KINDS if getattr(sizes, kind) > 1}


class Wire:
    """The communication of one device of a mesh in an optimizer step.

    Args:
        sizes: The sizes of the mesh.
        collectives: The collective operations of a step.
    """

    def __init__(self, sizes: ParallelSizes, collectives: Sequence[Collective]) -> None:
        self.sizes, self._collectives = sizes, collectives

    def report(self) -> list[dict[str, Any]]:
        """Return the calls, payload and bytes on the wire of each axis, kind and phase."""
        return summed(self._collectives)

    def total(self) -> float:
        """Return the bytes that a device sends, and receives."""
        return sum(one.wire_bytes for one in self._collectives)

    def seconds(self, device: Device) -> dict[str, float] | None:
        """Return the time of each axis on a device, without latency and overlap; None if a speed is unknown."""
        found: dict[str, float] = {}
        for axis, stride in strides(self.sizes).items():
            speed = link_speed(device, self.sizes, axis, stride)
            if speed is None:
                return None
            found[axis] = sum(one.wire_bytes for one in self._collectives if one.axis == axis) / speed
        return found


def link_speed(device: Device, sizes: ParallelSizes, axis: str, stride: int) -> float | None:
    """Return the bytes/s with which a device exchanges data along an axis of a mesh; None if unknown.

    Within a machine, it is the speed of the link. A ring that leaves the machine crosses its border once; the network
    cards of all members of the group in the machine share these bytes.

    Args:
        device: The device.
        sizes: The sizes of the mesh.
        axis: ddp, fsdp or tp.
        stride: The distance between the ranks of a group of the axis.
    """
    if device.node is None or device.link is None:
        return None
    count: int = getattr(sizes, axis)
    if sizes.processes <= device.node or device.node % (stride * count) == 0:
        return device.link
    if device.network is None:
        return None
    return min(device.link, device.network * max(1, min(count, device.node // stride)))
