"""Copy the files of a checkpoint directory other than weights: configuration, tokenizer, chat templates."""

from __future__ import annotations

import os
import shutil
from collections.abc import Collection, Iterator
from pathlib import Path

from ..filesystem.model_files import TEMPLATES
from ..filesystem.printable import truncated_list

# Suffixes of weight files. A subdirectory that contains one is another checkpoint, or the same one in another format.
WEIGHTS = (
    ".safetensors", ".bin", ".index.json", ".pt", ".pth", ".ckpt", ".distcp", ".gguf", ".ggml", ".h5", ".msgpack",
    ".onnx", ".onnx_data", ".npz", ".pte", ".pickle", ".pkl",
)  # fmt: skip
_CACHE = "__pycache__"


def copy_others(origin: Path, staging: Path, skip: Collection[str]) -> tuple[str, ...]:
    """Copy all files and subdirectories except the weights from a checkpoint directory into a new one.

    Links to files become files. Subdirectories with weights, hidden subdirectories, links to directories and the
    directory that contains `staging` are skipped.

    Args:
        origin: The source directory.
        staging: The new directory.
        skip: Names of files and subdirectories in `origin` that are not copied: its weights.

    Returns:
        Notes about the subdirectories that were skipped.

    Raises:
        OSError: A file cannot be read or written.
    """
    new = staging.resolve()
    omitted = []
    for entry in sorted(origin.iterdir()):
        if entry.is_file():
            if entry.name not in skip:
                shutil.copy2(entry, staging / entry.name)
        elif not entry.is_dir() or entry.name == _CACHE or entry.name in skip or _contains(entry, new):
            continue
        elif reason := _reason(entry):
            omitted.append(f"{entry.name} ({reason})")
        else:
            _copy_directory(entry, staging / entry.name)
    return (f"these directories were not copied: {truncated_list(omitted)}",) if omitted else ()


def _contains(directory: Path, staging: Path) -> bool:
    return not directory.is_symlink() and staging.is_relative_to(directory.resolve())


def _reason(directory: Path) -> str | None:
    """Return why a subdirectory is not copied, or None if it is."""
    if directory.name == TEMPLATES:
        return None
    if directory.is_symlink():
        return "a link"
    if directory.name.startswith("."):
        return "hidden"
    return "contains weights" if any(file.name.lower().endswith(WEIGHTS) for file in _files(directory)) else None


def _copy_directory(source: Path, target: Path) -> None:
    target.mkdir()
    for file in _files(source):
        copy = target / file.relative_to(source)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(file, copy)


def _files(directory: Path) -> Iterator[Path]:
    """Yield the regular files below a directory and links to files. Links to directories are not followed."""
    for folder, _, names in os.walk(directory, onerror=_raise):
        files = (Path(folder) / name for name in sorted(names))
        yield from (file for file in files if Path(folder).name != _CACHE and file.is_file())


def _raise(error: OSError) -> None:
    raise error
