"""Copy a model directory, and make the copy small."""

from __future__ import annotations

import json
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ...errors import CheckError, access_hint, first_line
from ...filesystem.model_files import skip_unsuitable
from ...filesystem.strict_json import read_object
from ...model.shrink import Keep, shrunk_config

WEIGHTS = ("*.safetensors", "*.bin", "*.index.json", "*.pt", "*.pth", "checkpoint-*")
_SMALL_ID = 4096  # up to this token id, a vocabulary is small enough to keep the special tokens


def copy_directory(directory: Path, copy: Path) -> None:
    """Copy a model directory without its weights; the copy can be written, even if the original is read-only."""
    shutil.copytree(directory, copy, ignore=skip_unsuitable(WEIGHTS))
    for path in (copy, *copy.rglob("*")):
        path.chmod(path.stat().st_mode | stat.S_IWUSR)


def shrink_copy(directory: Path, copy: Path, config: Any) -> None:
    """Change config.json of a copy, so that its model is small and has the same features.

    Args:
        directory: The original directory.
        copy: Its copy.
        config: The configuration of the original.

    Raises:
        CheckError: The configuration cannot be made small.
    """
    file = copy / "config.json"
    content = read_object(file)
    try:
        keep: tuple[Keep, ...] = ("token_ids",) if _keeps_token_ids(copy, config) else ()
        changes = shrunk_config(config, keep=keep)
    except Exception as error:  # third-party configurations may raise any exception
        problem = f"cannot be loaded: {first_line(error)}"
        raise CheckError(problem, file=directory / file.name, hint=access_hint(error)) from None
    file.write_text(json.dumps(content | changes, indent=2) + "\n", encoding="utf-8")


def _keeps_token_ids(copy: Path, config: Any) -> bool:
    """Return whether the special tokens stay: other files, which are not shrunk, have their ids, or they are small."""
    files = ("generation_config.json", "tokenizer_config.json", "tokenizer.json")
    if any((copy / name).exists() for name in files):
        return True
    return max(special_ids(config.get_text_config(decoder=True)), default=0) < _SMALL_ID


def special_ids(config: Any) -> Iterator[int]:
    """Yield the token ids of a text configuration's special tokens."""
    for name in ("bos", "eos", "pad", "unk"):
        value = getattr(config, f"{name}_token_id", None)
        yield from (one for one in (value if isinstance(value, list) else [value]) if isinstance(one, int))
