"""Memory, bandwidth, peak FLOP/s and links of devices, from a YAML file that users can replace."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch

from ..errors import ConfigurationError, access_hint
from ..filesystem.model_files import read_text
from ..filesystem.paths import expanded
from ..filesystem.printable import shortened
from ..options.yaml_text import YamlError, parse_yaml

_GIB, _GIGA, _TERA = 2**30, 10**9, 10**12
_FIELDS = {"memory", "bandwidth", "flops", "source", "node", "link", "network", "node_source"}


@dataclass(frozen=True)
class Device:
    """Specification of a device model.

    Args:
        name: Common name.
        memory: Memory available to programs, in bytes.
        bandwidth: Memory bandwidth in bytes/s; None if unknown.
        flops: Peak FLOP/s of matrix products by precision: fp32, bf16.
        source: URL of the specification.
        node: Number of devices in a machine; None if unknown.
        link: Bytes/s in each direction between a device and the others of its machine; None if unknown.
        network: Bytes/s in each direction between machines, for each device; None if unknown.
        node_source: URL of the specification of the machine.
    """

    name: str
    memory: int
    bandwidth: float | None
    flops: Mapping[str, float]
    source: str | None
    node: int | None = None
    link: float | None = None
    network: float | None = None
    node_source: str | None = None

    def flops_in(self, precision: str) -> float | None:
        """Return the peak FLOP/s in a precision, or None if unknown; fp16 and mixed use those of bf16."""
        return self.flops.get("bf16" if precision in {"mixed", "fp16"} else precision)


def load_devices(path: Path | None = None) -> list[Device]:
    """Return the devices of a YAML file in ascending order of memory.

    Args:
        path: The file; None reads the devices shipped with Forgather.

    Raises:
        ConfigurationError: The file cannot be read, or an entry is not a device.
    """
    label = str(path) if path is not None else "devices.yaml"
    source = expanded(path) if path is not None else files("forgather_core.estimate") / "devices.yaml"
    try:
        document = parse_yaml(read_text(source) if isinstance(source, Path) else source.read_text(encoding="utf-8-sig"))
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", error)
        problem, hint = f"cannot be read: {reason}", access_hint(error)
        raise ConfigurationError(problem, option="--hardware", file=label, hint=hint) from None
    except YamlError as error:
        raise error.at(file=label) from None
    if not isinstance(document.value, dict) or not document.value:
        got = shortened(repr(document.value))
        problem = f"expected a mapping from device names to memory, bandwidth and flops, got {got}"
        raise ConfigurationError(problem, option="--hardware", file=label)
    found = []
    for name, item in document.value.items():
        try:
            found.append(_device(str(name), item))
        except ValueError as error:
            line, column = document.place(name)
            raise ConfigurationError(str(error), option=str(name), file=label, line=line, column=column) from None
    return sorted(found, key=lambda device: device.memory)


def local_devices() -> list[Device]:
    """Return the devices of this machine, without bandwidth and FLOP/s, which are unknown."""
    found = []
    for number in range(torch.cuda.device_count() if torch.cuda.is_available() else 0):
        properties = torch.cuda.get_device_properties(number)
        found.append(Device(f"here: cuda:{number}, {properties.name}", properties.total_memory, None, {}, None))
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return [*found, Device("here: cpu", memory, None, {}, None)]


def known_device(device: torch.device) -> Device | None:
    """Return the specification of a device of this machine, found by the words of its name; None if unknown."""
    if device.type != "cuda":
        return None
    words = set(re.findall(r"\w+", torch.cuda.get_device_name(device)))
    if "Laptop" in words:  # laptop variants share the name and are slower
        return None
    return next((known for known in load_devices() if words >= set(known.name.split())), None)


def _device(name: str, item: Any) -> Device:
    if not isinstance(item, dict):
        problem = f"expected a mapping with memory, bandwidth and flops, got {item!r}"
        raise ValueError(problem)  # noqa: TRY004 - the content of a file is wrong
    if unknown := sorted(map(str, item.keys() - _FIELDS)):
        raise ValueError(f"unknown key '{unknown[0]}'; use {', '.join(sorted(_FIELDS))}")
    flops = item.get("flops") or {}
    if not isinstance(flops, dict) or not flops.keys() <= {"fp32", "bf16"}:
        raise ValueError("flops must be a mapping with fp32 and bf16, in TFLOP/s")
    if item.get("memory") is None:
        raise ValueError("memory is missing: add it, in GiB")
    node = _optional("node", item)
    if node is not None and node != int(node):
        raise ValueError(f"node must be a whole number of devices, got '{item['node']}'")
    if node is None and not item.keys().isdisjoint({"link", "network"}):
        raise ValueError("link and network require node: add the number of devices in a machine")
    bandwidth, link, network = (_optional(field, item) for field in ("bandwidth", "link", "network"))
    return Device(
        name,
        memory=int(_positive("memory", item["memory"]) * _GIB),
        bandwidth=bandwidth * _GIGA if bandwidth is not None else None,
        flops={kind: _positive(f"flops of {kind}", value) * _TERA for kind, value in flops.items()},
        source=_text("source", item),
        node=int(node) if node is not None else None,
        link=link * _GIGA if link is not None else None,
        network=network * _GIGA if network is not None else None,
        node_source=_text("node_source", item),
    )


def _text(field: str, item: Mapping[str, Any]) -> str | None:
    return str(item[field]) if item.get(field) is not None else None


def _optional(field: str, item: Mapping[str, Any]) -> float | None:
    return _positive(field, item[field]) if item.get(field) is not None else None


def _positive(field: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < float("inf"):
        raise ValueError(f"{field} must be a number above zero, got '{value}'")
    return float(value)
