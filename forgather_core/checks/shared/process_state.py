"""Snapshots of the state that a call must not change: the model, torch's settings, random generators, live tensors."""

from __future__ import annotations

import gc
import random
import weakref
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy
import torch
from torch import Tensor

from .tolerance import different_tensors


def global_settings() -> dict[str, Any]:
    """Return torch's settings of this process, by name."""
    cuda: Any = torch.backends.cuda
    return {
        "the gradient mode": torch.is_grad_enabled(),
        "the inference mode": torch.is_inference_mode_enabled(),
        "the default dtype": torch.get_default_dtype(),
        "the default device": torch.get_default_device(),
        "autocast": torch.is_autocast_enabled("cpu"),
        "the dtype of autocast": torch.get_autocast_dtype("cpu"),
        "the cache of autocast": torch.is_autocast_cache_enabled(),
        "deterministic algorithms": torch.are_deterministic_algorithms_enabled(),
        "the precision of float32 products": torch.get_float32_matmul_precision(),
        "the number of threads": torch.get_num_threads(),
        "anomaly detection": torch.is_anomaly_enabled(),
        "the flash kernel of sdpa": cuda.flash_sdp_enabled(),
        "the memory-efficient kernel of sdpa": cuda.mem_efficient_sdp_enabled(),
        "the math kernel of sdpa": cuda.math_sdp_enabled(),
        "deterministic cuDNN": torch.backends.cudnn.deterministic,
        "cuDNN benchmarking": torch.backends.cudnn.benchmark,
    }


def random_states() -> dict[str, Any]:
    """Return the states of the random generators of torch, numpy and Python, by name."""
    return {
        "torch's random generator": torch.get_rng_state().numpy().tobytes(),
        "numpy's random generator": _numpy_state(),
        "Python's random generator": random.getstate(),
    }


def _numpy_state() -> tuple[Any, ...]:
    state: Any = numpy.random.get_state()
    name, keys, *others = state
    return name, keys.tobytes(), *others


@dataclass(frozen=True)
class Snapshot:
    """The state of a model and of the process.

    Args:
        named: Values that must be equal, by name: settings, random generators, the configuration.
        modules: The identity, type and mode of each module, by name.
        tensors: Copies of the parameters and buffers.
        identities: The identity of each parameter and buffer, and whether it requires a gradient.
    """

    named: Mapping[str, Any]
    modules: Mapping[str, tuple[Any, ...]]
    tensors: Mapping[str, Tensor]
    identities: Mapping[str, tuple[Any, ...]]

    @classmethod
    def of(cls, model: Any) -> Snapshot:
        """Return the state of a model and of the process now."""
        tensors = _tensors(model)
        configs = {"the configuration": model.config.to_dict()}
        if getattr(model, "generation_config", None) is not None:
            configs["the generation configuration"] = model.generation_config.to_dict()
        return cls(
            named=global_settings() | random_states() | configs,
            modules={name: (id(one), type(one), one.training) for name, one in model.named_modules()},
            tensors={name: one.detach().clone() for name, one in tensors.items()},
            identities={name: (id(one), one.requires_grad) for name, one in tensors.items()},
        )

    def changes(self, later: Snapshot) -> list[str]:
        """Return the changes from this snapshot to a later one, as phrases such as "changes the default dtype"."""
        found = [
            f"changes {name}{_fields(old, later.named[name])}"
            for name, old in self.named.items()
            if old != later.named[name]
        ]
        changed = _different(self.modules, later.modules)
        if changed:
            found.append(f"changes the modules {', '.join(changed[:3])}")
        changed = different_tensors(self.tensors, later.tensors)
        if changed:
            found.append(f"changes the values of {', '.join(changed[:3])}")
        changed = [name for name in _different(self.identities, later.identities) if name not in changed]
        if changed:
            found.append(f"replaces or freezes {', '.join(changed[:3])}")
        return found


def _tensors(model: Any) -> dict[str, Tensor]:
    return dict(model.named_parameters()) | dict(model.named_buffers())


def _different(one: Mapping[str, Any], two: Mapping[str, Any]) -> list[str]:
    return [name or "the model" for name in sorted(one.keys() | two.keys()) if one.get(name) != two.get(name)]


def _fields(old: Any, new: Any) -> str:
    if isinstance(old, dict):
        return ": " + ", ".join(f"{n} from {old.get(n)!r} to {new.get(n)!r}" for n in _different(old, new)[:3])
    return f" from {old} to {new}" if isinstance(old, (bool, int, torch.dtype, torch.device, str)) else ""


class LiveTensors:
    """Count the bytes of all tensors of this process that Python objects hold.

    The objects that exist on entry are frozen (`gc.freeze`), so that later collections take little time.
    """

    def __enter__(self) -> LiveTensors:
        """Find the tensors that exist now."""
        gc.collect()
        self._known = [weakref.ref(one) for one in _tracked()]
        gc.freeze()
        return self

    def __exit__(self, *_: object) -> None:
        """Unfreeze the objects, so that later collections include them."""
        gc.unfreeze()

    def storages(self) -> dict[int, tuple[int, str]]:
        """Return the bytes of each live storage, with the shape and dtype of a tensor, by address."""
        gc.collect()
        found = {}
        for tensor in self._tensors():
            with suppress(Exception):  # fake, sparse and functional tensors have no storage
                storage = tensor.untyped_storage()
                if storage.device.type == "cpu" and storage.nbytes():
                    found[storage.data_ptr()] = storage.nbytes(), f"{tuple(tensor.shape)} of {tensor.dtype}"
        return found

    def _tensors(self) -> Iterator[Tensor]:
        yield from (one for ref in self._known if (one := ref()) is not None)
        yield from _tracked()


def _tracked() -> list[Tensor]:
    """Return the tensors that the garbage collector knows; `isinstance` would load lazy modules."""
    return [one for one in gc.get_objects() if issubclass(type(one), Tensor)]


def attribute_of(model: Any, address: int) -> str | None:
    """Return the module, or class of a module, and the attribute that hold a storage, or None.

    Args:
        model: The model.
        address: The address of the storage.
    """
    for name, module in model.named_modules():
        for owner, attributes in ((name or "the model", vars(module)), (type(module).__name__, vars(type(module)))):
            for attribute, value in attributes.items():
                values = value.values() if isinstance(value, dict) else value
                held = [*values] if isinstance(values, (list, tuple, type({}.values()))) else [value]
                inner = [one for item in held for one in (item if isinstance(item, (tuple, list)) else (item,))]
                if any(type(one) is Tensor and one.untyped_storage().data_ptr() == address for one in inner):
                    return f"{owner}.{attribute}"
    return None
