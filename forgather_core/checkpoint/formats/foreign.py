"""Recognize files and directories that are not a checkpoint in Hugging Face's format, and say what to do."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path

from ...filesystem.disk import open_regular, read_bytes

HEAD = 512  # bytes that are looked at

_GGUF = "is a GGUF file of llama.cpp: load the Hugging Face checkpoint that it was converted from"
_COMPRESSED = "is compressed with {0}: decompress it first"
_ARCHIVE = "is an archive made with tar: unpack it and name the model directory in it"

_SIGNATURES: tuple[tuple[bytes, str], ...] = (
    (b"GGUF", _GGUF),
    (b"ggjt", _GGUF),
    (b"tjgg", _GGUF),
    (b"lmgg", _GGUF),
    (b"\x1f\x8b", _COMPRESSED.format("gzip")),
    (b"BZh", _COMPRESSED.format("bzip2")),
    (b"\xfd7zXZ\0", _COMPRESSED.format("xz")),
    (b"\x28\xb5\x2f\xfd", _COMPRESSED.format("zstd")),
    (b"7z\xbc\xaf\x27\x1c", "is a 7z archive: unpack it first"),
    (b"version https://git-lfs", "is a pointer of git-lfs, not the weights: run 'git lfs pull' in its repository"),
    (
        b"\x89HDF\r\n\x1a\n",
        "is an HDF5 file of TensorFlow or Keras: save its model as safetensors there",
    ),
    (b"\x93NUMPY", "is an array of NumPy, not a checkpoint"),
    (b"%PDF", "is a PDF document, not weights"),
)
_PAGE = re.compile(rb"\s*(<!doctype html|<html|<head|<\?xml)", re.IGNORECASE)


def describe(head: bytes, size: int, suffix: str) -> str | None:
    """Say what a file is that cannot be read as weights, and what to do; None where that is not known.

    Args:
        head: Its first `HEAD` bytes.
        size: Bytes of the file.
        suffix: `.safetensors` or another, which is read as a file of torch.

    Returns:
        The end of a sentence whose subject is the file.
    """
    for signature, text in _SIGNATURES:
        if head.startswith(signature):
            return text
    if head[257:262] == b"ustar":
        return _ARCHIVE
    if _PAGE.match(head):
        return "is a web page, not weights: the download has failed, or its address is that of a page"
    if len(head) >= 16 and not head.strip(b"\0"):
        return "begins with zeros: the download or the copy is incomplete; fetch it again"
    is_json = head[8:9] == b"{"
    if suffix == ".safetensors":
        if head.startswith((b"PK\x03\x04", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")):
            return "is a file of torch.save: rename it to .bin"
        if head[:1] == b"{" and size < 10**6:
            return "is JSON, not weights"
        return None
    if is_json and int.from_bytes(head[:8], "little") < size:
        return "is a safetensors file: rename it to .safetensors"
    if head.startswith(b"PK\x03\x04"):
        return "is a truncated file of torch.save: the download or the copy is incomplete; fetch it again"
    if head[:1] == b"{":
        return "is JSON, not weights"
    if head and head[:1] != b"\x80":  # protocol 2 and later; earlier ones have not been written since 2014
        return "is text, not weights" if _is_text(head) else "begins as neither a zip archive nor a pickle does"
    return None


def _is_text(head: bytes) -> bool:
    """Whether the first bytes of a file are text in UTF-8. Its last character may be cut."""
    text = head.decode("utf-8", errors="ignore")
    return len(head) - len(text.encode()) < 4 and all(c.isprintable() or c in "\t\n\r\f\ufeff" for c in text)


def describe_file(file: Path) -> str | None:
    """`describe` for a file that is not open."""
    try:
        descriptor = open_regular(file)
    except OSError:
        return None
    try:
        size = os.fstat(descriptor).st_size
        return describe(read_bytes(descriptor, min(size, HEAD), 0), size, file.suffix)
    except OSError:
        return None
    finally:
        os.close(descriptor)


_Matches = Callable[[str], bool]


def _named(pattern: str) -> _Matches:
    return re.compile(pattern).fullmatch  # type: ignore[return-value]


_CONTENTS: tuple[tuple[_Matches, str], ...] = (
    (
        _named(r"adapter_model\.(safetensors|bin)|adapter_config\.json"),
        "it holds a PEFT adapter ({0}), not a model: merge it into its base model with merge_and_unload() of peft",
    ),
    (
        _named(r"global_step\d+|(zero|bf16_zero|fp16_zero)_pp_rank_.*|zero_to_fp32\.py|mp_rank_\d+_model_states\.pt"),
        "it holds a DeepSpeed checkpoint ({0}): convert it with 'python zero_to_fp32.py . pytorch_model.bin' in it",
    ),
    (
        _named(r".*\.distcp|\.metadata|pytorch_model_fsdp_\d+"),
        "it holds a distributed checkpoint of torch ({0}): convert it with 'python -m "
        "torch.distributed.checkpoint.format_utils dcp_to_torch DIR pytorch_model.bin'",
    ),
    (
        _named(r"tf_model.*\.h5|.*\.ckpt\.index|saved_model\.pb"),
        "it holds weights of TensorFlow ({0}): save them as safetensors with a version of transformers below 5",
    ),
    (
        _named(r"flax_model.*\.msgpack(\.index\.json)?"),
        "it holds weights of Flax ({0}): save them as safetensors with a version of transformers below 5",
    ),
    (_named(r".*\.gguf"), "it holds a GGUF file ({0}): load the Hugging Face checkpoint that it was converted from"),
    (
        _named(r"consolidated.*\.(pth|safetensors)"),
        "it holds weights in the format of their authors ({0}): convert them to Hugging Face's format first",
    ),
    (_named(r".*\.onnx"), "it holds a model of ONNX ({0}): load the checkpoint that it was exported from"),
    (_named(r"(?!optimizer|scheduler|rng_state|training_args).*\.(safetensors|bin)"), "name a file in it, such as {0}"),
)
_STEP = re.compile(r"checkpoint-(\d+)")


def describe_directory(directory: Path) -> str | None:
    """Say what a directory without weights holds, and how to use it; None where nothing in it is known."""
    names = sorted(entry.name for entry in directory.iterdir())
    steps = [name for name in names if _STEP.fullmatch(name) and (directory / name).is_dir()]
    if steps:
        latest = max(steps, key=lambda name: int(name.split("-")[1][:18]))
        return f"it holds checkpoints of a training run: name one of them, such as {directory / latest}"
    for matches, text in _CONTENTS:
        found = [name for name in names if matches(name)]
        if found:
            return text.format(found[0] if len(found[0]) < 100 else found[0][:100])
    return None
