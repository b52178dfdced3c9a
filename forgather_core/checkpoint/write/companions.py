"""Keep the configuration files of a directory consistent with the weights saved there."""

from __future__ import annotations

import copy
import errno
import json
import os
from enum import Enum
from pathlib import Path
from typing import Any

from torch import nn

from ...errors import CheckpointError
from ...filesystem.disk import UnsuitableFile
from ...filesystem.strict_json import read_object
from ...model.manifest import VOLATILE
from ..formats.layout import entry_of

CONFIG = "config.json"

# Configuration values that affect neither the names nor the shapes of weights.
_NOT_COMPARED = VOLATILE | {"auto_map", "use_cache", "output_attentions", "output_hidden_states"}


class ConfigUpdate(Enum):
    """The change that a configuration needs to match the weights. The values are the reasons."""

    NOTHING = "the configuration matches"
    ADD = "the directory has neither a configuration nor weights"
    DTYPE = "its dtype differs from that of the weights"
    REPLACE = "it is missing beside weights, is not valid JSON, or belongs to another model"


def config_update(model: Any, directory: Path, dtype: str | None) -> ConfigUpdate:
    """Return the change that the configuration in a directory needs when weights of this model are saved there.

    Args:
        model: The model. Only transformers models have a configuration; None is accepted for any other.
        directory: The directory, which may not exist.
        dtype: Main dtype of the weights.

    Raises:
        CheckpointError: A configuration must be written, and the existing one cannot be read or is not a regular file.
    """
    pretrained = is_pretrained(model)
    try:
        existing = read_config(directory)
    except OSError as error:
        if not pretrained:
            return ConfigUpdate.NOTHING
        problem = f"cannot be replaced: {error.strerror or error}"
        raise CheckpointError(problem, file=directory / CONFIG, hint="move it, or save elsewhere") from None
    except ValueError:
        return ConfigUpdate.REPLACE if pretrained else ConfigUpdate.NOTHING
    if existing is None:
        is_new = not directory.exists() or entry_of(directory) is None
        return ConfigUpdate.NOTHING if not pretrained else ConfigUpdate.ADD if is_new else ConfigUpdate.REPLACE
    if pretrained and changes(model, existing):
        return ConfigUpdate.REPLACE
    return ConfigUpdate.NOTHING if _dtype_of(existing) in (None, dtype) else ConfigUpdate.DTYPE


def read_config(directory: Path) -> dict[str, Any] | None:
    """Return the configuration of a directory, or None if there is none.

    Raises:
        OSError: It cannot be read, is not a regular file, or is a dangling link (EINVAL).
        ValueError: It is not a JSON object.
    """
    file = directory / CONFIG
    try:
        return read_object(file)
    except FileNotFoundError:
        if os.path.lexists(file):
            raise UnsuitableFile(errno.EINVAL, "it is a dangling link", str(file)) from None
        return None


def is_pretrained(model: Any) -> bool:
    """Return whether a model is a transformers model, with a configuration to save."""
    return hasattr(model, "save_pretrained") and hasattr(getattr(model, "config", None), "to_json_string")


def changes(model: Any, existing: dict[str, Any]) -> list[str]:
    """Return the differences between a configuration and the model's: "hidden_size (expected 32, got 64)"."""
    try:
        other = type(model.config).from_dict(copy.deepcopy(existing)).to_dict()
    except Exception as error:  # the configuration of another model can raise anything
        return [f"{CONFIG} does not belong to {type(model.config).__name__} ({type(error).__name__})"]
    own = json.loads(json.dumps(model.config.to_dict(), default=str))
    other = json.loads(json.dumps(other, default=str))
    names = sorted((own.keys() | other.keys()) - _NOT_COMPARED)
    if existing.get("model_type") not in (None, model.config.model_type):
        names = ["model_type"]
        other["model_type"] = existing["model_type"]
    return [f"{n} (expected {own.get(n)}, got {other.get(n)})" for n in names if own.get(n) != other.get(n)]


def write_companions(model: Any, update: ConfigUpdate, old: Path, staging: Path, dtype: str | None) -> None:
    """Write the configuration files into `staging`. Of the files that `old` already has, only config.json is written.

    Args:
        model: The model; it may be None for `ConfigUpdate.DTYPE`.
        update: The change to the configuration.
        old: The directory that the weights are saved into.
        staging: The directory that receives the files.
        dtype: Main dtype of the weights.
    """
    if update is ConfigUpdate.DTYPE:
        existing = read_config(old) or {}
        key = "dtype" if "dtype" in existing else "torch_dtype"
        text = json.dumps(existing | {key: dtype}, indent=2, ensure_ascii=False) + "\n"
        (staging / CONFIG).write_text(text, encoding="utf-8")
    elif update in (ConfigUpdate.ADD, ConfigUpdate.REPLACE):
        _write_all(model, staging, dtype)
        for file in list(staging.iterdir()):
            if file.name != CONFIG and os.path.lexists(old / file.name):
                file.unlink()


def _write_all(model: Any, directory: Path, dtype: str | None) -> None:
    from transformers.dynamic_module_utils import custom_object_save

    config = copy.deepcopy(model.config)
    config.dtype = dtype
    # FSDP2 gives a model a class of its own, whose source is in torch.
    own: Any = next(kind for kind in type(model).__mro__ if not kind.__module__.startswith("torch.distributed."))
    config.architectures = [own.__name__]
    if getattr(model, "_auto_class", None) is not None:
        code = model
        if own is not type(model):
            code = own.__new__(own)  # only its class is read
            nn.Module.__init__(code)
            code._auto_class = model._auto_class
        custom_object_save(code, directory, config=config)
    config.save_pretrained(directory)
    if model.can_generate():
        try:
            model.generation_config.save_pretrained(directory)
        except ValueError:  # transformers rejects a contradictory configuration, which the weights do not require
            (directory / "generation_config.json").unlink(missing_ok=True)


def _dtype_of(config: dict[str, Any]) -> str | None:
    found = config.get("dtype") or config.get("torch_dtype")
    return str(found).removeprefix("torch.") if found is not None else None
