"""Recognize files and directories that are not Hugging Face checkpoints, and suggest what to do."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from ...filesystem.disk import read_bytes

HEAD = 512  # bytes that are inspected
FETCH_AGAIN = "copy or download it again"  # the hint for a damaged file


class Foreign(NamedTuple):
    """A file or directory in another format.

    Args:
        problem: What it is, as a predicate: "is a 7z archive". Its subject is the file or directory.
        hint: The remedy, as an imperative; None if there is none.
    """

    problem: str
    hint: str | None = None


_CONVERTED = "load the Hugging Face checkpoint that it was converted from"
_GGUF = Foreign("is a GGUF file of llama.cpp", _CONVERTED)
_NAME_WEIGHTS = "name a .safetensors or .bin file"

_SIGNATURES: tuple[tuple[bytes, Foreign], ...] = (
    (b"GGUF", _GGUF),
    (b"ggjt", _GGUF),
    (b"tjgg", _GGUF),
    (b"lmgg", _GGUF),
    (b"\x1f\x8b", Foreign("is compressed with gzip", "decompress it first")),
    (b"BZh", Foreign("is compressed with bzip2", "decompress it first")),
    (b"\xfd7zXZ\0", Foreign("is compressed with xz", "decompress it first")),
    (b"\x28\xb5\x2f\xfd", Foreign("is compressed with zstd", "decompress it first")),
    (b"7z\xbc\xaf\x27\x1c", Foreign("is a 7z archive", "unpack it first")),
    (
        b"version https://git-lfs",
        Foreign("is a git-lfs pointer, not the weights", "run 'git lfs pull' in its repository"),
    ),
    (
        b"\x89HDF\r\n\x1a\n",
        Foreign("is an HDF5 file of TensorFlow or Keras", "save its model as safetensors in that framework"),
    ),
    (b"\x93NUMPY", Foreign("is a NumPy array, not a checkpoint", _NAME_WEIGHTS)),
    (b"%PDF", Foreign("is a PDF document, not weights", _NAME_WEIGHTS)),
)
_ARCHIVE = Foreign("is a tar archive", "unpack it and name the model directory in it")
_INCOMPLETE = f"the file is incomplete; {FETCH_AGAIN}"
_JSON = Foreign("is JSON, not weights")
_PAGE = re.compile(rb"\s*(<!doctype html|<html|<head|<\?xml)", re.IGNORECASE)


def describe(head: bytes, size: int, suffix: str) -> Foreign | None:
    """Describe a file that cannot be read as weights; return None if it is not recognized.

    Args:
        head: The first `HEAD` bytes of the file.
        size: Size of the file in bytes.
        suffix: Suffix of the file. Any suffix other than `.safetensors` is read as a torch file.
    """
    for signature, foreign in _SIGNATURES:
        if head.startswith(signature):
            return foreign
    if head[257:262] == b"ustar":
        return _ARCHIVE
    if _PAGE.match(head):
        return Foreign("is a web page, not weights", "download the file itself instead of its page")
    if len(head) >= 16 and not head.strip(b"\0"):
        return Foreign("begins with zeros", _INCOMPLETE)
    is_json = head[8:9] == b"{"
    if suffix == ".safetensors":
        if head.startswith((b"PK\x03\x04", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")):
            return Foreign("is a torch.save file", "change its suffix to .bin")
        if head[:1] == b"{" and size < 10**6:
            return _JSON
        return None
    if is_json and int.from_bytes(head[:8], "little") < size:
        return Foreign("is a safetensors file", "change its suffix to .safetensors")
    if head.startswith(b"PK\x03\x04"):
        return Foreign("is a truncated torch.save file", _INCOMPLETE)
    if head[:1] == b"{":
        return _JSON
    if head and head[:1] != b"\x80":  # protocol 2 and later; earlier protocols have not been written since 2014
        return Foreign("is text, not weights" if _is_text(head) else "is neither a zip archive nor a pickle")
    return None


def _is_text(head: bytes) -> bool:
    """Return whether the first bytes of a file are UTF-8 text. The last character may be cut off."""
    text = head.decode("utf-8", errors="ignore")
    return len(head) - len(text.encode()) < 4 and all(c.isprintable() or c in "\t\n\r\f\ufeff" for c in text)


def describe_open(descriptor: int, suffix: str) -> Foreign | None:
    """Apply `describe` to an open file."""
    size = os.fstat(descriptor).st_size
    return describe(read_bytes(descriptor, min(size, HEAD), 0), size, suffix)


_Matches = Callable[[str], bool]


def _name_matches(pattern: str) -> _Matches:
    return re.compile(pattern).fullmatch  # type: ignore[return-value]


_AS_SAFETENSORS = "save them as safetensors with transformers 4"

# Test of a file name, description of a directory with such a file, and hint; {0} is the name.
_CONTENTS: tuple[tuple[_Matches, str, str], ...] = (
    (
        _name_matches(r"adapter_model\.(safetensors|bin)|adapter_config\.json"),
        "holds a PEFT adapter ({0}), not a model",
        "merge it into the model that it adapts with merge_and_unload() of PEFT",
    ),
    (
        _name_matches(
            r"global_step\d+|(zero|bf16_zero|fp16_zero)_pp_rank_.*|zero_to_fp32\.py|mp_rank_\d+_model_states\.pt"
        ),
        "holds a DeepSpeed checkpoint ({0})",
        "convert it with zero_to_fp32.py, which DeepSpeed saves in the same directory",
    ),
    (
        _name_matches(r".*\.distcp|__\d+\.metadata"),
        "holds a torch distributed checkpoint without .metadata ({0}), whose save has not ended",
        "copy .metadata too, or name an older checkpoint",
    ),
    (
        _name_matches(r"pytorch_model_fsdp_\d+"),
        "holds torch distributed checkpoints of several models",
        "name one of them, such as {0}",
    ),
    (
        _name_matches(r"tf_model.*\.h5|.*\.ckpt\.index|saved_model\.pb"),
        "holds TensorFlow weights ({0})",
        _AS_SAFETENSORS,
    ),
    (
        _name_matches(r"flax_model.*\.msgpack(\.index\.json)?"),
        "holds Flax weights ({0})",
        _AS_SAFETENSORS,
    ),
    (_name_matches(r".*\.gguf"), "holds a GGUF file ({0})", _CONVERTED),
    (
        _name_matches(r"consolidated.*\.(pth|safetensors)"),
        "holds weights in the model's original format ({0})",
        "convert them to Hugging Face's format first",
    ),
    (_name_matches(r".*\.onnx"), "holds an ONNX model ({0})", "load the checkpoint that it was exported from"),
    (
        _name_matches(r"(?!optimizer|scheduler|rng_state|training_args).*\.(safetensors|bin)"),
        "holds weight files with other names",
        "name a file in it, such as {0}",
    ),
)
_STEP = re.compile(r"(?:checkpoint|step)-(\d+)")


def describe_directory(directory: Path) -> Foreign | None:
    """Describe a directory without weights; return None if nothing in it is recognized."""
    names = sorted(entry.name for entry in directory.iterdir())
    steps = [name for name in names if _STEP.fullmatch(name) and (directory / name).is_dir()]
    if steps:
        latest = max(steps, key=lambda name: int(name.split("-")[1][:18]))
        return Foreign("holds checkpoints of a training run", f"name one of them, such as {directory / latest}")
    for matches, problem, hint in _CONTENTS:
        found = [name[:100] for name in names if matches(name)]
        if found:
            return Foreign(problem.format(found[0]), hint.format(found[0]))
    return None
