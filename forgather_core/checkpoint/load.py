"""Load a checkpoint: everything is checked before the first value is copied."""

from __future__ import annotations

import json
import os
import pickle
import warnings
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor, nn

from ..errors import CheckpointError
from .layout import find_entry, shards_of


@dataclass(frozen=True)
class MissingTensor:
    """A tensor of the model that the checkpoint does not have, and what may explain it."""

    name: str
    hint: str | None = None


@dataclass(frozen=True)
class LoadReport:
    """What was loaded.

    Args:
        path: The checkpoint.
        loaded: How many tensors of the model were filled.
        missing: Tensors of the model that are not in the checkpoint: they are as they were.
        unexpected: Tensors of the checkpoint for which the model has no place.
    """

    path: Path
    loaded: int
    missing: tuple[MissingTensor, ...] = ()
    unexpected: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """As plain data."""
        return {
            "path": str(self.path),
            "loaded": self.loaded,
            "missing": [asdict(item) for item in self.missing],
            "unexpected": list(self.unexpected),
        }


@dataclass(frozen=True)
class _Stored:
    """A tensor in a file: shape and dtype are known, values are read when asked for."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    read: Callable[[], Tensor]


class Checkpoint:
    """An open checkpoint. Its files stay open, so that it outlives the directory in which it lies."""

    def __init__(self, path: Path, tensors: dict[str, _Stored], stack: ExitStack) -> None:
        self.path = path
        self._tensors = tensors
        self._stack = stack

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> Self:
        """Open the checkpoint at `path`: a directory, a weight file or an index. No value is read yet.

        Raises:
            CheckpointError: There is none, or it is damaged or incomplete. The text names the file.
        """
        entry = find_entry(Path(path))
        tensors: dict[str, _Stored] = {}
        with ExitStack() as stack:
            for shard in shards_of(entry):
                found = _open_safetensors(shard, stack) if shard.suffix == ".safetensors" else _open_bin(shard)
                if twice := sorted(found.keys() & tensors.keys()):
                    raise CheckpointError(f"{shard} holds '{twice[0]}', which another shard of {entry} holds too")
                tensors |= found
            _check_index(entry, tensors)
            return cls(Path(path), tensors, stack.pop_all())

    def close(self) -> None:
        """Close the files."""
        self._tensors = {}
        self._stack.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def load_into(self, model: nn.Module) -> LoadReport:
        """Copy the checkpoint's values into the model's parameters and persistent buffers, in the model's dtype.

        Args:
            model: A model on a real device.

        Returns:
            What was loaded and what was not.

        Raises:
            CheckpointError: A tensor has another shape or kind of number than the model's, or none fits. Nothing has
                been copied then.
        """
        state = {name: t for name, t in model.state_dict(keep_vars=True).items() if isinstance(t, Tensor)}
        places = {name: tensor for name, tensor in state.items() if name in self._tensors}
        self._check(places, model)
        ties = _ties(model, state)
        filled: set[str] = set()
        with torch.no_grad():
            for name, tensor in places.items():
                if ties.get(name) not in places:  # else the source of the tie fills both
                    tensor.copy_(self._tensors[name].read())
                filled.add(name)
        reached = filled | {name for name, source in ties.items() if source in filled}
        reached |= {source for name, source in ties.items() if name in filled}
        missing = tuple(MissingTensor(name, self._hint(name, model)) for name in state if name not in reached)
        unexpected = [name for name in self._tensors if name not in state]
        unexpected += [name for name in places if ties.get(name) in places and not self._agree(name, ties[name])]
        return LoadReport(self.path, len(reached), missing, tuple(unexpected))

    def _check(self, places: dict[str, Tensor], model: nn.Module) -> None:
        if not places:
            example = f"it has '{next(iter(self._tensors))}'" if self._tensors else "it is empty"
            raise CheckpointError(
                f"{self.path} has no tensor that {type(model).__name__} has ({example}): it is of another model"
            )
        wrong = []
        for name, tensor in places.items():
            stored = self._tensors[name]
            if tensor.is_meta:
                raise CheckpointError(f"'{name}' of the model is on the meta device: name a real device to load to")
            if stored.shape != tuple(tensor.shape):
                wrong.append(f"{name} ({_shape(stored.shape)} there, {_shape(tensor.shape)} here)")
            elif stored.dtype.is_floating_point != tensor.dtype.is_floating_point:
                wrong.append(f"{name} ({_dtype(stored.dtype)} there, {_dtype(tensor.dtype)} here)")
        if wrong:
            more = f" and {len(wrong) - 3} more" if len(wrong) > 3 else ""
            raise CheckpointError(f"{self.path} does not fit the model: {', '.join(wrong[:3])}{more}")

    def _agree(self, name: str, source: str) -> bool:
        return torch.equal(self._tensors[name].read(), self._tensors[source].read())

    def _hint(self, name: str, model: nn.Module) -> str | None:
        if name in (getattr(model, "_tied_weights_keys", None) or {}):
            return "a tied model saves it once: tie this one too with --tie-word-embeddings"
        near = get_close_matches(name, self._tensors, n=1, cutoff=0.8)
        return f"the checkpoint has {near[0]}" if near else None


def load_checkpoint(
    path: str | os.PathLike[str],
    model: nn.Module,
    *,
    device: torch.device | str | None = None,
    strict: bool = False,
) -> LoadReport:
    """Load a checkpoint of Hugging Face's format, sharded or not, safetensors or `.bin`, into a model.

    Args:
        path: A model directory, a weight file or an index.
        model: The model. On the meta device it is given memory first, which needs `device`.
        device: Where the model is moved before anything is loaded; None leaves it where it is.
        strict: Raise where something is missing or unexpected; else warn.

    Returns:
        What was loaded and what was not.

    Raises:
        CheckpointError: The checkpoint is damaged or does not fit. Nothing has been loaded then.
    """
    with Checkpoint.open(path) as checkpoint:
        if device is not None:
            _move(model, torch.device(device))
        report = checkpoint.load_into(model)
    for kind, names in (("missing from", [item.name for item in report.missing]), ("not in", report.unexpected)):
        if names:
            sentence = f"{kind} the {'checkpoint' if kind != 'not in' else 'model'} {path}: {', '.join(names)}"
            if strict:
                raise CheckpointError(sentence)
            warnings.warn(sentence, stacklevel=2)
    return report


def _move(model: nn.Module, device: torch.device) -> None:
    if not any(parameter.is_meta for parameter in model.parameters()):
        model.to(device)
        return
    model.to_empty(device=device)
    if hasattr(model, "init_weights"):
        model.init_weights()  # type: ignore[operator]  # ties, and the buffers that no checkpoint holds


def _ties(model: nn.Module, state: dict[str, Tensor]) -> dict[str, str]:
    """The names that are the same tensor as another: target -> source."""
    named: dict[str, str] = getattr(model, "all_tied_weights_keys", None) or {}
    ties = {t: s for t, s in named.items() if t in state and s in state and state[t] is state[s]}
    first: dict[int, str] = {}
    for name, tensor in state.items():
        if name not in ties:
            source = first.setdefault(id(tensor), name)
            if source != name:
                ties[name] = source
    return ties


def _open_safetensors(shard: Path, stack: ExitStack) -> dict[str, _Stored]:
    from safetensors import SafetensorError, safe_open

    def reader(file: Any, name: str) -> Callable[[], Tensor]:
        def read() -> Tensor:
            try:
                tensor: Tensor = file.get_tensor(name)
            except (SafetensorError, OSError) as error:
                raise CheckpointError(f"{shard} is damaged at '{name}': {error}") from None
            return tensor

        return read

    try:
        file: Any = stack.enter_context(safe_open(shard, framework="pt"))  # type: ignore[no-untyped-call]
        found = {}
        for name in file.keys():  # noqa: SIM118 - it is no mapping
            part = file.get_slice(name)
            found[name] = _Stored(tuple(part.get_shape()), _TORCH_DTYPES[part.get_dtype()], reader(file, name))
    except KeyError as error:
        raise CheckpointError(f"{shard} holds numbers of a kind that is not supported: {error}") from None
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{shard} is no safetensors file, or is damaged: {error}") from None
    return found


_TORCH_DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}


def _open_bin(shard: Path) -> dict[str, _Stored]:
    try:
        state = _torch_load(shard)
    except pickle.UnpicklingError:
        raise CheckpointError(
            f"{shard} is damaged, or holds code, which is not run: save its tensors alone, best as safetensors"
        ) from None
    except Exception as error:  # the reader trusts its input, and fails on garbage in any way
        raise CheckpointError(f"{shard} is no weight file of torch, or is damaged: {_first_line(error)}") from None
    if not isinstance(state, dict) or not all(isinstance(t, Tensor) for t in state.values()):
        raise CheckpointError(f"{shard} is no mapping of names to tensors")
    return {n: _Stored(tuple(t.shape), t.dtype, lambda t=t: t) for n, t in state.items()}  # type: ignore[misc]


def _torch_load(shard: Path) -> Any:
    try:
        return torch.load(shard, map_location="cpu", weights_only=True, mmap=True)
    except RuntimeError as error:
        if "mmap can only be used" not in str(error):  # files of torch < 1.6 are no archives
            raise
        return torch.load(shard, map_location="cpu", weights_only=True)


def _check_index(entry: Path, tensors: dict[str, _Stored]) -> None:
    if not entry.name.endswith(".json"):
        return
    named = json.loads(entry.read_text(encoding="utf-8"))["weight_map"].keys()
    if absent := sorted(named - tensors.keys()):
        raise CheckpointError(f"{entry} promises '{absent[0]}', but no shard holds it: the checkpoint is damaged")


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)


def _shape(shape: Any) -> str:
    return " x ".join(map(str, shape)) or "scalar"


def _dtype(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
