"""Copy what stands beside the weights of a checkpoint: files, and subdirectories such as those of chat templates."""

from __future__ import annotations

import os
import shutil
from collections.abc import Collection, Iterator
from pathlib import Path

from ..filesystem.model_files import TEMPLATES
from ..filesystem.wording import truncated_list

# A directory with one of these below it holds another checkpoint, or the same one for another program.
WEIGHTS = (
    ".safetensors", ".bin", ".index.json", ".pt", ".pth", ".ckpt", ".distcp", ".gguf", ".ggml", ".h5", ".msgpack",
    ".onnx", ".onnx_data", ".npz", ".pte", ".pickle", ".pkl",
)  # fmt: skip
_CACHE = "__pycache__"


def copy_others(origin: Path, staging: Path, left: Collection[str]) -> tuple[str, ...]:
    """Copy the files and subdirectories of a checkpoint's directory into a new one.

    Links to files become files. Subdirectories that hold weights, hidden ones, links to directories and the directory
    that contains `staging` are left out.

    Args:
        origin: The directory.
        staging: The new directory.
        left: Names of files in `origin` that are not copied: its weights.

    Returns:
        Notes on subdirectories that are left out.

    Raises:
        OSError: Something cannot be read or written.
    """
    new = staging.resolve()
    omitted = []
    for entry in sorted(origin.iterdir()):
        if entry.is_file():
            if entry.name not in left:
                shutil.copy2(entry, staging / entry.name)
        elif not entry.is_dir() or entry.name == _CACHE:
            continue
        elif reason := _reason(entry):
            omitted.append(f"{entry.name} ({reason})")
        elif not new.is_relative_to(entry.resolve()):
            _copy_directory(entry, staging / entry.name)
    return (f"these directories were not copied: {truncated_list(omitted)}",) if omitted else ()


def _reason(directory: Path) -> str | None:
    """Why a subdirectory is not copied; None if it is."""
    if directory.name == TEMPLATES:
        return None
    if directory.is_symlink():
        return "a link"
    if directory.name.startswith("."):
        return "hidden"
    return "with weights" if any(file.name.lower().endswith(WEIGHTS) for file in _files(directory)) else None


def _copy_directory(source: Path, target: Path) -> None:
    target.mkdir()
    for file in _files(source):
        place = target / file.relative_to(source)
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(file, place)


def _files(directory: Path) -> Iterator[Path]:
    """The files below a directory. Links to files count, links to directories and special files do not."""
    for folder, _, names in os.walk(directory, onerror=_raise):
        found = (Path(folder) / name for name in sorted(names))
        yield from (file for file in found if Path(folder).name != _CACHE and file.is_file())


def _raise(error: OSError) -> None:
    raise error
