"""Broken and hostile checkpoints, created by code: what the loader refuses, loads, or loads with a remark."""

from __future__ import annotations

import io
import json
import math
import os
import pickle
import re
import signal
import stat
import struct
import subprocess
import sys
import tarfile
import time
import warnings
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from forgather_core.checkpoint import Checkpoint, LoadReport, load_checkpoint, load_into, save_checkpoint
from forgather_core.errors import CheckpointError

pytestmark = pytest.mark.faults

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
BIN = "pytorch_model.bin"
SHARDS = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")

SECONDS = 5.0  # maximum time of a case
MEMORY = 256 * 2**20  # maximum bytes that a case adds to the process; an index may have 100 MB
TEXT = 4000  # maximum characters of a message

DTYPES = {
    torch.float32: "F32",
    torch.bfloat16: "BF16",
    torch.float64: "F64",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}

State = dict[str, Tensor]
Header = dict[str, Any]
Builder = Callable[[Path], Path]  # fills an empty directory, returns the path to load


class Net(nn.Module):
    """Tensors of all kinds that matter here: a matrix, a vector, an integer, and an empty one."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(16, 8)
        self.linear = nn.Linear(8, 4)
        self.register_buffer("nothing", torch.empty(0, 3))
        self.register_buffer("steps", torch.tensor(7))


def values(**changes: Tensor) -> State:
    """Return the tensors of an intact checkpoint of `Net`; a double underscore in a name stands for a dot."""
    state = {
        "embed.weight": torch.arange(128.0).view(16, 8) / 7,
        "linear.weight": torch.arange(32.0).view(4, 8) - 5.5,
        "linear.bias": torch.tensor([0.25, -1.0, 3e8, 1e-8]),
        "nothing": torch.empty(0, 3),
        "steps": torch.tensor(41),
    }
    return state | {name.replace("__", "."): tensor for name, tensor in changes.items()}


@dataclass(frozen=True)
class Refused:
    """Expect a CheckpointError whose message names the file and matches the reason, a pattern."""

    file: str
    reason: str


@dataclass(frozen=True)
class Loads:
    """Expect that every tensor is loaded, without warnings."""

    state: Callable[[], State] = values


@dataclass(frozen=True)
class Noted:
    """Expect a partial load, described by the warning and the named fields of the report."""

    warning: str
    fields: Mapping[str, tuple[str, ...]]
    state: Callable[[], State] = field(default=values)


Outcome = Refused | Loads | Noted


# ---------------------------------------------------------------------------------------------------------------------
# safetensors


def bytes_of(tensor: Tensor) -> bytes:
    return tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


def parts(state: State) -> tuple[Header, bytes]:
    """Return header and data of a safetensors file, in the order of `state`."""
    header: Header = {}
    data = b""
    for name, tensor in state.items():
        span = bytes_of(tensor)
        offsets = [len(data), len(data) + len(span)]
        header[name] = {"dtype": DTYPES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": offsets}
        data += span
    return header, data


def framed(header: Header | bytes, data: bytes = b"", *, length: int | None = None) -> bytes:
    if isinstance(header, bytes):
        text = header
    else:
        text = json.dumps(header).encode()
        text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def intact() -> bytes:
    return framed(*parts(values()))


def file(name: str, content: bytes | Callable[[], bytes]) -> Builder:
    """Write a single file of this content."""

    def build(directory: Path) -> Path:
        (directory / name).write_bytes(content if isinstance(content, bytes) else content())
        return directory / name

    return build


def safetensors(state: Callable[[], State]) -> Builder:
    return file(SINGLE, lambda: framed(*parts(state())))


def header(change: Callable[[Header], object]) -> Builder:
    """Write an intact file except for its header, which `change` edits in place."""

    def content() -> bytes:
        found, data = parts(values())
        change(found)
        return framed(found, data)

    return file(SINGLE, content)


def entry(**fields: object) -> Builder:
    """Write an intact file except for these header fields of `linear.bias`, bytes 640 to 656 of 664."""
    return header(lambda found: found["linear.bias"].update(fields))


def header_text(edit: Callable[[bytes], bytes]) -> Builder:
    """Write an intact file except for the text of its header."""

    def content() -> bytes:
        found, data = parts(values())
        return framed(edit(json.dumps(found).encode()), data)

    return file(SINGLE, content)


def unpadded() -> bytes:
    """Write a valid file with all values at odd offsets."""
    found, data = parts(values())
    text = json.dumps(found).encode()
    return framed(text + b" " * (1 - len(text) % 2), data)


def overlapping(found: Header) -> None:
    found["linear.bias"]["data_offsets"] = [636, 652]


def within(found: Header) -> None:
    """Write an empty tensor in the middle of another."""
    found["nothing"]["data_offsets"] = [100, 100]


def gap(found: Header) -> None:
    found["steps"]["data_offsets"] = [660, 668]


def without_bytes(found: Header) -> None:
    """Write huge sizes whose product is zero: valid, with another shape than the model's."""
    found["nothing"]["shape"] = [0, 2**62, 2**62]


NESTED = "nested too deeply|lists and objects"

HEADERS: dict[str, tuple[Builder, Outcome]] = {
    "intact": (file(SINGLE, intact), Loads()),
    "empty file": (file(SINGLE, b""), Refused(SINGLE, "shorter than the length of its header")),
    "seven bytes": (file(SINGLE, b"\0" * 7), Refused(SINGLE, "shorter than the length of its header")),
    "header of no bytes": (file(SINGLE, framed(b"")), Refused(SINGLE, "not JSON")),
    "header beyond the file": (
        file(SINGLE, lambda: framed(b"{}", length=1000)),
        Refused(SINGLE, "ends within its header"),
    ),
    "header of 2**63 bytes": (file(SINGLE, framed(b"{}", length=2**63)), Refused(SINGLE, "at most 100,000,000")),
    "header of 2**64-1 bytes": (
        file(SINGLE, framed(b"{}", length=2**64 - 1)),
        Refused(SINGLE, "at most 100,000,000"),
    ),
    "header above the limit, and there": (
        lambda directory: sparse(directory / SINGLE, 120_000_000, struct.pack("<Q", 110_000_000)),
        Refused(SINGLE, "at most 100,000,000"),
    ),
    "zeros without end": (
        lambda directory: sparse(directory / SINGLE, 2**40),
        Refused(SINGLE, "begins with zeros"),
    ),
    "one byte of data too few": (file(SINGLE, lambda: intact()[:-1]), Refused(SINGLE, "truncated")),
    "half of its header": (file(SINGLE, lambda: intact()[:200]), Refused(SINGLE, "ends within its header")),
    "half of its data": (file(SINGLE, lambda: intact()[:-332]), Refused(SINGLE, "truncated")),
    "one byte too many": (file(SINGLE, lambda: intact() + b"\0"), Refused(SINGLE, "bytes that belong to no tensor")),
    "header is no JSON": (file(SINGLE, framed(b"{]" + b" " * 64)), Refused(SINGLE, "not JSON")),
    "header is no UTF-8": (file(SINGLE, framed(b'{"\xff": 1}')), Refused(SINGLE, "not UTF-8")),
    "header with a byte order mark": (header_text(lambda text: b"\xef\xbb\xbf" + text), Refused(SINGLE, "not JSON")),
    "header is a list": (file(SINGLE, framed(b"[]")), Refused(SINGLE, "not a JSON object")),
    "header is nested without end": (
        file(SINGLE, framed(b'{"a":' + b"[" * 100_000)),
        Refused(SINGLE, NESTED),
    ),
    "header is objects nested without end": (
        file(SINGLE, framed(b'{"a":' * 100_000)),
        Refused(SINGLE, NESTED),
    ),
    "header without tensors": (file(SINGLE, framed(b"{}")), Refused(SINGLE, "it is empty")),
    "header has a number of 5000 digits": (
        header_text(lambda text: text.replace(b"[640", b"[" + b"9" * 5000)),
        Refused(SINGLE, "damaged"),
    ),
    "header names a tensor twice": (
        header_text(lambda text: b'{"steps": {"dtype": "I64", "shape": [], "data_offsets": [656, 664]},' + text[1:]),
        Refused(SINGLE, "'steps' occurs twice"),
    ),
    "header names a field twice": (
        header_text(lambda text: text.replace(b'"shape": [4],', b'"shape": [4], "shape": [4],')),
        Refused(SINGLE, "'shape' occurs twice"),
    ),
    "header with NaN": (
        header_text(lambda text: text.replace(b'"shape": [4]', b'"shape": [NaN]')),
        Refused(SINGLE, "NaN is not valid JSON"),
    ),
    "overlapping tensors": (header(overlapping), Refused(SINGLE, "overlaps the tensor before it")),
    "no bytes within another": (header(within), Refused(SINGLE, "overlaps the tensor before it")),
    "a gap between tensors": (header(gap), Refused(SINGLE, "leaves a gap before it")),
    "two tensors of one span": (
        header(lambda found: found.update(other=found["steps"])),
        Refused(SINGLE, "overlaps the tensor before it"),
    ),
    "offsets beyond the file": (
        header(lambda found: found["steps"].update(data_offsets=[656, 10**15], shape=[(10**15 - 656) // 8])),
        Refused(SINGLE, "truncated"),
    ),
    "an end before its beginning": (entry(data_offsets=[656, 640]), Refused(SINGLE, "not a start and an end")),
    "negative offsets": (entry(data_offsets=[-16, 0]), Refused(SINGLE, "not a start and an end")),
    "offsets of 2**63": (entry(data_offsets=[2**63, 2**63 + 16]), Refused(SINGLE, "not a start and an end")),
    "one offset": (entry(data_offsets=[640]), Refused(SINGLE, "not a start and an end")),
    "three offsets": (entry(data_offsets=[640, 656, 656]), Refused(SINGLE, "not a start and an end")),
    "offsets that are texts": (entry(data_offsets=["640", "656"]), Refused(SINGLE, "not a start and an end")),
    "offsets that are no list": (entry(data_offsets={"640": 656}), Refused(SINGLE, "not a start and an end")),
    "a shape of more bytes than there are": (
        entry(shape=[5]),
        Refused(SINGLE, "16 bytes; expected 5 elements"),
    ),
    "a shape of fewer bytes": (entry(shape=[3]), Refused(SINGLE, "16 bytes; expected 3 elements of 4 bytes")),
    "a shape with a zero": (entry(shape=[4, 0]), Refused(SINGLE, "16 bytes; expected 4 x 0 elements")),
    "a negative size": (entry(shape=[-4]), Refused(SINGLE, "not a list of sizes")),
    "two negative sizes": (entry(shape=[-2, -2]), Refused(SINGLE, "not a list of sizes")),
    "a size that is a float": (entry(shape=[4.0]), Refused(SINGLE, "not a list of sizes")),
    "a size that is a bool": (entry(shape=[4, True]), Refused(SINGLE, "not a list of sizes")),
    "a size that is null": (entry(shape=[None]), Refused(SINGLE, "not a list of sizes")),
    "a size of 2**63": (entry(shape=[2**63]), Refused(SINGLE, "not a list of sizes")),
    "sizes whose product wraps to 4": (entry(shape=[4, 2**32 + 1, 2**32 + 1]), Refused(SINGLE, "16 bytes; expected")),
    "a shape that is a number": (entry(shape=4), Refused(SINGLE, "not a list of sizes")),
    "ten thousand huge dimensions": (entry(shape=[2**62] * 10_000), Refused(SINGLE, "not a list of sizes")),
    "ten thousand dimensions of one": (entry(shape=[1] * 10_000 + [4]), Refused(SINGLE, "not a list of sizes")),
    "sixty-four huge dimensions": (entry(shape=[2**62] * 64), Refused(SINGLE, "16 bytes; expected")),
    "sixty-five dimensions": (entry(shape=[1] * 64 + [4]), Refused(SINGLE, "not a list of sizes")),
    "an unknown dtype": (entry(dtype="F33"), Refused(SINGLE, "an unknown dtype: F33")),
    "a dtype of sub-byte numbers": (entry(dtype="F4"), Refused(SINGLE, "an unknown dtype: F4")),
    "a dtype that is a number": (entry(dtype=4), Refused(SINGLE, "an unknown dtype")),
    "a dtype that is a list": (entry(dtype=["F32"]), Refused(SINGLE, "an unknown dtype")),
    "a dtype that is null": (entry(dtype=None), Refused(SINGLE, "an unknown dtype")),
    "a dtype of several lines": (entry(dtype="F32\n\x1b[31mF33"), Refused(SINGLE, "an unknown dtype")),
    "a dtype of half a character": (entry(dtype="\ud800"), Refused(SINGLE, "an unknown dtype")),
    "a field too many": (entry(strides=[1]), Refused(SINGLE, "must have dtype, shape and data_offsets")),
    "a field too few": (
        header(lambda found: found["linear.bias"].pop("shape")),
        Refused(SINGLE, "must have dtype, shape and data_offsets"),
    ),
    "a tensor that is a text": (
        header(lambda found: found.update(steps="F32")),
        Refused(SINGLE, "must have dtype, shape and data_offsets"),
    ),
    "a name of several lines": (
        header(lambda found: found.update({"two\nlines": 3})),
        Refused(SINGLE, "must have dtype, shape and data_offsets"),
    ),
    "a name that writes on the terminal": (
        header(lambda found: found.update({"\x1b]0;owned\x07": 3})),
        Refused(SINGLE, "must have dtype, shape and data_offsets"),
    ),
    "a name of half a character": (
        header(lambda found: found.update({"\ud800": 3})),
        Refused(SINGLE, "must have dtype, shape and data_offsets"),
    ),
    "a name of a megabyte": (
        header(lambda found: found.update({"n" * 10**6: 3})),
        Refused(SINGLE, "must have dtype, shape and data_offsets"),
    ),
    "a name of several lines, twice": (
        header_text(lambda text: rb'{"two\nlines": 1, "two\nlines": 2,' + text[1:]),
        Refused(SINGLE, "occurs twice"),
    ),
    "of another model, in several lines": (
        safetensors(lambda: {"two\nlines": torch.zeros(1)}),
        Refused(SINGLE, "load a checkpoint of this model"),
    ),
    "metadata that are a list": (
        header(lambda found: found.update(__metadata__=["pt"])),
        Refused(SINGLE, "metadata is not a map of strings"),
    ),
    "metadata with a number": (
        header(lambda found: found.update(__metadata__={"format": 3})),
        Refused(SINGLE, "metadata is not a map of strings"),
    ),
    "metadata with an object": (
        header(lambda found: found.update(__metadata__={"format": {}})),
        Refused(SINGLE, "metadata is not a map of strings"),
    ),
    "metadata of any texts": (header(lambda found: found.update(__metadata__={"\0": "\n", "": "x" * 999})), Loads()),
    "int32 for a float": (
        safetensors(lambda: values(linear__bias=torch.ones(4, dtype=torch.int32))),
        Refused(SINGLE, r"linear\.bias \(expected float32, got int32\)"),
    ),
    "float for an int": (
        safetensors(lambda: values(steps=torch.tensor(3.0))),
        Refused(SINGLE, r"steps \(expected int64, got float32\)"),
    ),
    "bool for an int": (
        safetensors(lambda: values(steps=torch.tensor(True))),
        Refused(SINGLE, r"steps \(expected int64, got bool\)"),
    ),
    "int32 for an int64": (safetensors(lambda: values(steps=torch.tensor(41, dtype=torch.int32))), Loads()),
    "uint8 for an int64": (safetensors(lambda: values(steps=torch.tensor(41, dtype=torch.uint8))), Loads()),
    "float64 for a float32": (
        safetensors(lambda: values(linear__bias=values()["linear.bias"].double())),
        Loads(),
    ),
    "unpadded header": (file(SINGLE, unpadded), Loads()),
    "a byte before all numbers": (
        safetensors(lambda: {"flag": torch.tensor(True)} | values()),
        Noted("not in the model: flag", {"unexpected": ("flag",)}),
    ),
    "nothing but other shapes": (
        safetensors(lambda: {"embed.weight": torch.zeros(2, 2)}),
        Refused(SINGLE, r"embed\.weight \(expected 16 x 8, got 2 x 2\)"),
    ),
    "one other shape": (
        safetensors(lambda: values(embed__weight=torch.zeros(8, 16))),
        Refused(SINGLE, r"1 tensor with a different shape: embed\.weight \(expected 16 x 8, got 8 x 16, transposed\)"),
    ),
    "a shape of no bytes and huge sizes": (
        header(without_bytes),
        Refused(SINGLE, "1 tensor with a different shape: nothing"),
    ),
    "one tensor missing": (
        safetensors(lambda: {name: tensor for name, tensor in values().items() if name != "steps"}),
        Noted("missing from .*: steps", {"missing": ("steps",)}),
    ),
    "an unexpected name of several lines": (
        safetensors(lambda: values() | {"two\nlines\x1b[31m": torch.zeros(1)}),
        Noted("not in the model", {"unexpected": ("two\nlines\x1b[31m",)}),
    ),
    "an unexpected name of a megabyte": (
        safetensors(lambda: values() | {"n" * 10**6: torch.zeros(1)}),
        Noted("not in the model", {"unexpected": ("n" * 10**6,)}),
    ),
    "NaN": (
        safetensors(lambda: values(linear__bias=torch.tensor([0.0, math.nan, 1.0, 2.0]))),
        Noted(
            r"with NaN or Inf: linear\.bias",
            {"non_finite": ("linear.bias",)},
            lambda: values(linear__bias=torch.tensor([0.0, math.nan, 1.0, 2.0])),
        ),
    ),
    "infinities": (
        safetensors(lambda: values(linear__bias=torch.tensor([0.0, math.inf, 1.0, -math.inf]))),
        Noted(
            r"with NaN or Inf: linear\.bias",
            {"non_finite": ("linear.bias",)},
            lambda: values(linear__bias=torch.tensor([0.0, math.inf, 1.0, -math.inf])),
        ),
    ),
}


# ---------------------------------------------------------------------------------------------------------------------
# An index, and what it names


def sparse(path: Path, size: int, beginning: bytes = b"") -> Path:
    """Write a sparse file of this size."""
    path.write_bytes(beginning)
    os.truncate(path, size)
    return path


def write_shards(directory: Path) -> dict[str, Any]:
    """Write two shards and return the content of their index."""
    state = values()
    weight_map: dict[str, Any] = {name: SHARDS[name != "embed.weight"] for name in state}
    for shard in SHARDS:
        here = {name: tensor for name, tensor in state.items() if weight_map[name] == shard}
        (directory / shard).write_bytes(framed(*parts(here)))
    return {"metadata": {"total_size": 664}, "weight_map": weight_map}


def index_text(content: bytes) -> Builder:
    """Write two valid shards and an index of this text."""

    def build(directory: Path) -> Path:
        write_shards(directory)
        (directory / INDEX).write_bytes(content)
        return directory

    return build


def index(change: Callable[[dict[str, Any]], object]) -> Builder:
    """Write two valid shards, and an index that `change` edits in place."""

    def build(directory: Path) -> Path:
        content = write_shards(directory)
        change(content)
        (directory / INDEX).write_text(json.dumps(content))
        return directory

    return build


def named(shard: object) -> Builder:
    """Write an index that lists `steps` in this file."""
    return index(lambda content: content["weight_map"].update(steps=shard))


def second_shard(replace: Callable[[Path], object]) -> Builder:
    """Write a valid index, and replace the second shard by `replace`."""

    def build(directory: Path) -> Path:
        (directory / INDEX).write_text(json.dumps(write_shards(directory)))
        (directory / SHARDS[1]).unlink()
        replace(directory / SHARDS[1])
        return directory

    return build


def entry_is(replace: Callable[[Path], object], name: str = INDEX) -> Builder:
    """Write two valid shards, and replace the index or the single file by `replace`."""

    def build(directory: Path) -> Path:
        write_shards(directory)
        replace(directory / name)
        return directory

    return build


def make_socket(path: Path) -> None:
    os.mknod(path, stat.S_IFSOCK | 0o600)


def hub_cache(directory: Path) -> Path:
    """Write a snapshot as in the Hub cache: links to files named by their digests."""
    blobs, snapshot = directory / "blobs", directory / "snapshots" / "0123"
    blobs.mkdir()
    snapshot.mkdir(parents=True)
    (blobs / INDEX).write_text(json.dumps(write_shards(blobs)))
    for number, name in enumerate((*SHARDS, INDEX)):
        (blobs / name).rename(blobs / f"{number:064x}")
        (snapshot / name).symlink_to(Path("../../blobs") / f"{number:064x}")
    return snapshot


def one_file_twice(path: Path) -> None:
    path.symlink_to(SHARDS[0])


def copy_in_both(directory: Path) -> Path:
    """Write a second shard with all tensors, one of which the first shard has too."""
    content = write_shards(directory)
    (directory / SHARDS[1]).write_bytes(intact())
    (directory / INDEX).write_text(json.dumps(content))
    return directory


def beside_an_intact_bin(directory: Path) -> Path:
    """Write a damaged file that other loaders prefer to a valid file of the other format."""
    torch.save(values(), directory / BIN)
    (directory / SINGLE).write_bytes(intact()[:-1])
    return directory


INDEXES: dict[str, tuple[Builder, Outcome]] = {
    "index, intact": (index(lambda _: None), Loads()),
    "index: empty": (index_text(b""), Refused(INDEX, "not JSON")),
    "index: no JSON": (index_text(b"weights"), Refused(INDEX, "not JSON")),
    "index: truncated JSON": (index_text(b'{"weight_map": {"steps": "mod'), Refused(INDEX, "not JSON")),
    "index: two documents": (index_text(b'{"weight_map": {}} {}'), Refused(INDEX, "not JSON")),
    "index: a list": (index_text(b"[1]"), Refused(INDEX, "not a JSON object")),
    "index: no weight_map": (index_text(b'{"metadata": {}}'), Refused(INDEX, "no object 'weight_map'")),
    "index: weight_map is a list": (index_text(b'{"weight_map": ["steps"]}'), Refused(INDEX, "no object 'weight_map'")),
    "index: weight_map is null": (index_text(b'{"weight_map": null}'), Refused(INDEX, "no object 'weight_map'")),
    "index: weight_map is empty": (index_text(b'{"weight_map": {}}'), Refused(INDEX, "lists no weights")),
    "index: metadata is a text": (
        index(lambda content: content.update(metadata="none")),
        Refused(INDEX, "not a checkpoint index"),
    ),
    "index: metadata is null": (index(lambda content: content.update(metadata=None)), Loads()),
    "index: odd records": (
        index(lambda content: content.update(metadata={"sha256": [3], "non_finite": {"a": 1}, "total_size": -1})),
        Loads(),
    ),
    "index: a tensor twice": (
        index_text(f'{{"weight_map": {{"steps": "{SHARDS[1]}", "steps": "{SHARDS[0]}"}}}}'.encode()),
        Refused(INDEX, "'steps' occurs twice"),
    ),
    "index: weight_map twice": (
        index_text(b'{"weight_map": {}, "weight_map": {"steps": "../x"}}'),
        Refused(INDEX, "'weight_map' occurs twice"),
    ),
    "index: nested without end": (index_text(b"[" * 100_000), Refused(INDEX, NESTED)),
    "index: objects nested without end": (index_text(b'{"a":' * 100_000), Refused(INDEX, NESTED)),
    "index: NaN": (index_text(b'{"metadata": {"total_size": NaN}}'), Refused(INDEX, "NaN is not valid JSON")),
    "index: no UTF-8": (index_text(b'{"weight_map": {"\xff": 1}}'), Refused(INDEX, "not UTF-8")),
    "index: UTF-16": (index_text('{"weight_map": {}}'.encode("utf-16")), Refused(INDEX, "not UTF-8")),
    "index: above the limit": (
        entry_is(lambda path: sparse(path, 150_000_000)),
        Refused(INDEX, "exceed the limit of 100,000,000"),
    ),
    "index: a terabyte": (
        entry_is(lambda path: sparse(path, 2**40)),
        Refused(INDEX, "exceed the limit of 100,000,000"),
    ),
    "index: a FIFO": (entry_is(os.mkfifo), Refused(INDEX, "not a regular file")),
    "index: a socket": (entry_is(make_socket), Refused(INDEX, "cannot be read")),
    "index: a directory": (entry_is(Path.mkdir), Refused(INDEX, "not a regular file")),
    "index: a device": (entry_is(lambda path: path.symlink_to("/dev/zero")), Refused(INDEX, "not a regular file")),
    "index: a broken link": (entry_is(lambda path: path.symlink_to("gone")), Refused(INDEX, "contains no weights")),
    "index: a link to itself": (entry_is(lambda path: path.symlink_to(INDEX)), Refused(INDEX, "contains no weights")),
    "index names ../x": (named("../x"), Refused(INDEX, "not a file name")),
    "index names ../ and a shard": (named(f"../{SHARDS[1]}"), Refused(INDEX, "not a file name")),
    "index names ./ and a shard": (named(f"./{SHARDS[1]}"), Refused(INDEX, "not a file name")),
    "index names an absolute path": (named("/etc/passwd"), Refused(INDEX, "not a file name")),
    "index names a Windows path": (named("..\\x"), Refused(INDEX, "not a file name")),
    "index names ..": (named(".."), Refused(INDEX, "not a file name")),
    "index names .": (named("."), Refused(INDEX, "not a file name")),
    "index names an empty text": (named(""), Refused(INDEX, "not a file name")),
    "index names a number": (named(3), Refused(INDEX, "not a file name")),
    "index names null": (named(None), Refused(INDEX, "not a file name")),
    "index names a list": (named([SHARDS[1]]), Refused(INDEX, "not a file name")),
    "index names NUL": (named(f"{SHARDS[1]}\0"), Refused(INDEX, "not a file name")),
    "index names a path of a megabyte": (named("../" + "x" * 10**6), Refused(INDEX, "not a file name")),
    "index names two lines": (named("two\nlines.safetensors"), Refused("model", "missing|not a file name")),
    "index names half a character": (
        named("\ud800.safetensors"),
        Refused("model", "missing|cannot be|not a file name"),
    ),
    "index names half a byte": (named("\udcff.safetensors"), Refused("model", "missing|cannot be|not a file name")),
    "index names a name of 300 letters": (named("x" * 300), Refused("xxx", "cannot be read|missing|not a file name")),
    "index names itself": (named(INDEX), Refused(INDEX, "not a torch weight file|not a file name|damaged")),
    "index names a missing shard": (named("model-3.safetensors"), Refused("model-3.safetensors", "is missing")),
    "index lists a tensor that no shard contains": (
        index(lambda content: content["weight_map"].update(more=SHARDS[0])),
        Refused(INDEX, "lists 'more', but no shard contains it"),
    ),
    "index lists a name of two lines": (
        index(lambda content: content["weight_map"].update({"two\nlines": SHARDS[0]})),
        Refused(INDEX, "but no shard contains it"),
    ),
    "index names the other shard": (named(SHARDS[0]), Refused(INDEX, f"lists 'steps' in {SHARDS[0]}, but {SHARDS[1]}")),
    "index forgets a tensor": (index(lambda content: content["weight_map"].pop("steps")), Loads()),
    "shard: gone": (second_shard(lambda _: None), Refused(SHARDS[1], "is missing")),
    "shard: a broken link": (second_shard(lambda path: path.symlink_to("gone")), Refused(SHARDS[1], "is missing")),
    "shard: a link to itself": (
        second_shard(lambda path: path.symlink_to(path.name)),
        Refused(SHARDS[1], "cannot be read"),
    ),
    "shard: a directory": (second_shard(Path.mkdir), Refused(SHARDS[1], "not a regular file")),
    "shard: a FIFO": (second_shard(os.mkfifo), Refused(SHARDS[1], "not a regular file")),
    "shard: a socket": (second_shard(make_socket), Refused(SHARDS[1], "cannot be read")),
    "shard: a device": (
        second_shard(lambda path: path.symlink_to("/dev/zero")),
        Refused(SHARDS[1], "not a regular file"),
    ),
    "shard: empty": (second_shard(Path.touch), Refused(SHARDS[1], "shorter than the length")),
    "shard: damaged": (second_shard(lambda path: path.write_bytes(intact()[:-9])), Refused(SHARDS[1], "truncated")),
    "shard: the first one again": (second_shard(one_file_twice), Refused(SHARDS[1], "which .*00001.* contains too")),
    "shard: a tensor of the other shard": (copy_in_both, Refused(SHARDS[1], "'embed.weight', which .* contains too")),
    "shards are links, as in the hub's cache": (hub_cache, Loads()),
}


# ---------------------------------------------------------------------------------------------------------------------
# Pickles


class Runs:
    """Call a function when unpickled, which creates the file `owned`."""

    def __init__(self, function: Callable[..., object], *arguments: object) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return self.call


@dataclass(frozen=True)
class Storage:
    """Pickles as the record `data/0` of an archive, with this number of elements."""

    count: int
    key: str = "0"


class Crafted:
    """Pickles as a tensor with these arguments for its view of the storage, valid or not."""

    def __init__(self, storage: object, offset: object, size: object, stride: object) -> None:
        self.arguments: tuple[object, ...] = (storage, offset, size, stride, False, OrderedDict())

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return torch._utils._rebuild_tensor_v2, self.arguments


class _Pickler(pickle.Pickler):
    """Pickles storages like torch, with the additional fields of releases before 1.6."""

    def __init__(self, stream: io.BytesIO, *more: object) -> None:
        super().__init__(stream, 2)
        self.more = more

    def persistent_id(self, obj: object) -> object:
        if isinstance(obj, Storage):
            return ("storage", torch.FloatStorage, obj.key, "cpu", obj.count, *self.more)
        return None


def pickled(content: object, *more: object) -> bytes:
    stream = io.BytesIO()
    _Pickler(stream, *more).dump(content)
    return stream.getvalue()


def zipped(directory: Path, records: Mapping[str, bytes], method: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(directory / BIN, "w", method) as made:
        for name, record in records.items():
            made.writestr(name, record)
    return directory / BIN


def archive(
    content: object,
    *storages: bytes,
    method: int = zipfile.ZIP_STORED,
    others: Mapping[str, bytes] | None = None,
) -> Builder:
    """Return an archive in torch's format with this content and these storages; `others` are additional records."""

    def build(directory: Path) -> Path:
        records = {"data.pkl": pickled(content), "byteorder": b"little", "version": b"3\n"} | dict(others or {})
        records |= {f"data/{number}": storage for number, storage in enumerate(storages)}
        return zipped(directory, {f"archive/{name}": record for name, record in records.items()}, method)

    return build


def instructions(*code: bytes) -> Builder:
    """Return an archive whose pickle consists of these instructions."""
    records = {"data.pkl": b"\x80\x02" + b"".join(code) + b".", "byteorder": b"little", "version": b"3\n"}
    return lambda directory: zipped(directory, {f"archive/{name}": record for name, record in records.items()})


def text(content: str) -> bytes:
    """Return the pickle instruction that creates a string."""
    return b"X" + struct.pack("<i", len(content.encode())) + content.encode()


def legacy(content: object, *storages: bytes) -> Builder:
    """Return a file in torch's format before 1.6: consecutive pickles, then the storages."""
    system = {"protocol_version": 1001, "little_endian": True, "type_sizes": {"short": 2, "int": 4, "long": 4}}

    def build(directory: Path) -> Path:
        found = pickled(0x1950A86A20F9469CFC6C) + pickled(1001) + pickled(system) + pickled(content, None)
        found += pickled([str(number) for number in range(len(storages))])
        for storage in storages:
            found += struct.pack("<q", len(storage) // 4) + storage
        (directory / BIN).write_bytes(found)
        return directory / BIN

    return build


def saved(content: Callable[[], object], *, old: bool = False) -> Builder:
    """Write a file with torch itself."""

    def build(directory: Path) -> Path:
        torch.save(content(), directory / BIN, _use_new_zipfile_serialization=not old)
        return directory / BIN

    return build


def saved_bytes(state: State | None = None, *, old: bool = False) -> bytes:
    stream = io.BytesIO()
    torch.save(values() if state is None else state, stream, _use_new_zipfile_serialization=not old)
    return stream.getvalue()


def zipped_again(method: int) -> Builder:
    """Unpack and repack an intact file, as users do; storages may then begin at any byte."""

    def build(directory: Path) -> Path:
        with zipfile.ZipFile(io.BytesIO(saved_bytes())) as old:
            return zipped(directory, {name: old.read(name) for name in old.namelist()}, method)

    return build


def big_endian(directory: Path) -> Path:
    """Write only the embedding, as a big-endian machine does."""
    matrix = values()["embed.weight"]
    swapped = bytes_of(matrix.view(torch.uint8).view(16, 8, 4).flip(-1))
    content = {"embed.weight": Crafted(Storage(128), 0, (16, 8), (8, 1))}
    return archive(content, swapped, others={"byteorder": b"big"})(directory)


class Hidden:
    """Pickles as an ordered dict with a method hidden by an attribute of that name."""

    def __init__(self, name: str, content: Mapping[str, object]) -> None:
        self.name = name
        self.content = content

    def __reduce__(self) -> tuple[object, ...]:
        return OrderedDict, (), {self.name: 3}, None, iter(self.content.items())


class HiddenInTensor:
    """Pickles as the tensor `content`, with a method hidden in the same way."""

    def __init__(self, name: str, content: Crafted) -> None:
        self.name = name
        self.content = content

    def __reduce__(self) -> tuple[object, ...]:
        make, arguments = self.content.__reduce__()
        return torch._tensor._rebuild_from_type_v2, (make, torch.Tensor, arguments, {self.name: 3})


def tar(directory: Path) -> Path:
    """Write the archive format of torch's first releases."""
    with tarfile.open(directory / BIN, "w") as made:
        for name in ("sys_info", "pickle", "storages", "tensors"):
            info = tarfile.TarInfo(name)
            info.size = 10
            made.addfile(info, io.BytesIO(b"\x80\x02K\x00.     "))
    return directory / BIN


def several_files(directory: Path) -> Path:
    """Write a broken shard beside valid ones."""
    shards = [f"pytorch_model-0000{number}-of-00002.bin" for number in (1, 2)]
    torch.save({"embed.weight": values()["embed.weight"]}, directory / shards[0])
    (directory / shards[1]).write_bytes(saved_bytes()[:-100])
    weight_map = {name: shards[name != "embed.weight"] for name in values()}
    (directory / f"{BIN}.index.json").write_text(json.dumps({"weight_map": weight_map}))
    return directory


def four() -> State:
    return values(linear__bias=torch.tensor([1.0, 2.0, 3.0, 4.0]))


def pickle_among_safetensors(content: Callable[[], object]) -> Builder:
    """Write a safetensors index whose second shard is a pickle."""

    def build(directory: Path) -> Path:
        found = write_shards(directory)
        torch.save(content(), directory / "second.bin")
        found["weight_map"] = {
            name: shard if shard == SHARDS[0] else "second.bin" for name, shard in found["weight_map"].items()
        }
        (directory / INDEX).write_text(json.dumps(found))
        return directory

    return build


MANY_LETTERS = "".join(chr(256 + number % 1500) for number in range(60_000))
FOUR = struct.pack("<4f", 1.0, 2.0, 3.0, 4.0)
BEYOND = r"not a torch weight file, or is damaged"
NO_CODE = r"holds code, which is not run"

PICKLES: dict[str, tuple[Builder, Outcome]] = {
    "bin, intact": (saved(values), Loads()),
    "bin, before torch 1.6": (saved(values, old=True), Loads()),
    "bin: an ordered dict": (saved(lambda: OrderedDict(values())), Loads()),
    "bin: a state_dict of a module": (
        saved(lambda: Net().state_dict() | values()),
        Loads(),
    ),
    "bin: parameters": (saved(lambda: values(linear__bias=nn.Parameter(values()["linear.bias"]))), Loads()),
    "bin: packed again": (zipped_again(zipfile.ZIP_STORED), Loads()),
    "bin: empty": (file(BIN, b""), Refused(BIN, BEYOND)),
    "bin: garbage": (file(BIN, bytes(range(256)) * 20), Refused(BIN, "damaged")),
    "bin: zeros": (file(BIN, b"\0" * 5000), Refused(BIN, "damaged")),
    "bin: a web page": (file(BIN, b"<!DOCTYPE html>\n<html>\n</html>\n"), Refused(BIN, "damaged")),
    "bin: a git-lfs pointer": (
        file(BIN, b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 5\n"),
        Refused(BIN, "damaged"),
    ),
    "bin: safetensors": (file(BIN, intact), Refused(BIN, "damaged")),
    "bin under the other name": (
        file(SINGLE, saved_bytes),
        Refused(SINGLE, "not a safetensors file, or is damaged"),
    ),
    "bin: truncated zip": (file(BIN, lambda: saved_bytes()[:-200]), Refused(BIN, BEYOND)),
    "bin: half a zip": (file(BIN, lambda: saved_bytes()[: len(saved_bytes()) // 2]), Refused(BIN, BEYOND)),
    "bin: beginning of a zip": (file(BIN, b"PK\x03\x04 and no more"), Refused(BIN, BEYOND)),
    "bin: a zip of other things": (
        lambda directory: zipped(directory, {"notes.txt": b"hello"}),
        Refused(BIN, BEYOND),
    ),
    "bin: a pickle of no bytes": (archive({}, others={"data.pkl": b""}), Refused(BIN, BEYOND)),
    "bin: TorchScript": (archive({}, others={"constants.pkl": b"\x80\x02)."}), Refused(BIN, BEYOND)),
    "bin: a tar": (tar, Refused(BIN, BEYOND)),
    "bin: truncated, before torch 1.6": (
        file(BIN, lambda: saved_bytes(old=True)[:-1]),
        Refused(BIN, "damaged"),
    ),
    "bin: truncated, before torch 1.6, where a storage without numbers is the last": (
        file(BIN, lambda: saved_bytes({"nothing": torch.empty(0, 3)}, old=True)[:-1]),
        Refused(BIN, "it is truncated"),
    ),
    "bin: half, before torch 1.6": (
        file(BIN, lambda: saved_bytes(old=True)[: len(saved_bytes(old=True)) // 2]),
        Refused(BIN, "damaged"),
    ),
    "bin: a broken shard": (several_files, Refused("pytorch_model-00002-of-00002.bin", BEYOND)),
    "bin: runs a program": (saved(lambda: {"steps": Runs(os.system, "touch owned")}), Refused(BIN, NO_CODE)),
    "bin: runs a program, before torch 1.6": (
        saved(lambda: {"steps": Runs(os.system, "touch owned")}, old=True),
        Refused(BIN, NO_CODE),
    ),
    "bin: a bare pickle runs a program": (
        file(BIN, lambda: pickle.dumps(Runs(os.system, "touch owned"), 2)),
        Refused(BIN, "damaged"),
    ),
    "bin: evaluates": (
        saved(lambda: values() | {"x": Runs(eval, "open('owned', 'w')")}),
        Refused(BIN, NO_CODE),
    ),
    "bin: starts a process": (
        saved(lambda: values() | {"x": Runs(subprocess.Popen, ["touch", "owned"])}),
        Refused(BIN, NO_CODE),
    ),
    "bin: opens a file": (saved(lambda: values() | {"x": Runs(io.open, "owned", "w")}), Refused(BIN, NO_CODE)),
    "bin: saves a file by torch": (
        saved(lambda: values() | {"x": Runs(torch.save, torch.ones(1), "owned")}),
        Refused(BIN, NO_CODE),
    ),
    "bin: runs as it is rebuilt": (
        saved(
            lambda: values() | {"x": Runs(torch._tensor._rebuild_from_type_v2, os.system, int, ("touch owned",), {})}
        ),
        Refused(BIN, NO_CODE),
    ),
    "bin: a whole module": (saved(Net), Refused(BIN, NO_CODE)),
    "bin: a list": (saved(lambda: [1, 2]), Refused(BIN, "not a mapping of names to tensors")),
    "bin: a tensor": (saved(lambda: torch.ones(3)), Refused(BIN, "not a mapping of names to tensors")),
    "bin: nothing": (saved(lambda: None), Refused(BIN, "not a mapping of names to tensors")),
    "bin: an empty dict": (saved(dict), Refused(BIN, "it is empty")),
    "bin: a number among tensors": (
        saved(lambda: values() | {"epoch": 3}),
        Refused(BIN, "'epoch' is of type int"),
    ),
    "bin: a dict in a dict": (
        saved(lambda: {"model": values(), "optimizer": {}}),
        Refused(BIN, "'model' is of type dict"),
    ),
    "bin: numbers for names": (
        saved(lambda: dict(enumerate(values().values()))),
        Refused(BIN, "not a mapping of names to tensors"),
    ),
    "bin: a name of several lines": (
        saved(lambda: values() | {"two\nlines": 3}),
        Refused(BIN, "not a mapping of names to tensors"),
    ),
    "bin: a sparse name of several lines": (
        saved(lambda: values() | {"two\nlines": torch.eye(2).to_sparse()}),
        Refused(BIN, "sparse, quantized or without values"),
    ),
    "bin: a function of several lines": (
        file(BIN, b"\x80\x02cposix\x0bsystem\r\x1b[31m\nsystem\nX\x0b\x00\x00\x00touch owned\x85R."),
        Refused(BIN, "damaged"),
    ),
    "bin: a sparse tensor": (
        saved(lambda: values(embed__weight=torch.eye(16, 8).to_sparse())),
        Refused(BIN, "sparse, quantized or without values"),
    ),
    "bin: a compressed sparse tensor": (
        saved(lambda: values(embed__weight=torch.eye(16, 8).to_sparse_csr())),
        Refused(BIN, "sparse, quantized or without values"),
    ),
    "bin: a meta tensor": (
        saved(lambda: values(embed__weight=torch.empty(16, 8, device="meta"))),
        Refused(BIN, "sparse, quantized or without values"),
    ),
    "bin: a quantized tensor": (
        saved(lambda: values(embed__weight=torch.quantize_per_tensor(torch.ones(16, 8), 0.1, 0, torch.qint8))),
        Refused(BIN, "sparse, quantized or without values|damaged"),
    ),
    "bin: a nested tensor": (
        saved(lambda: values() | {"x": torch.nested.nested_tensor([torch.ones(2), torch.ones(3)])}),
        Refused(BIN, "'x'|damaged"),
    ),
    "bin: complex for a float": (
        saved(lambda: values(linear__bias=torch.ones(4, dtype=torch.complex64).conj())),
        Refused(BIN, r"linear\.bias \(expected float32, got complex64\)"),
    ),
    "bin: int for a float": (
        saved(lambda: values(linear__bias=torch.ones(4, dtype=torch.int64))),
        Refused(BIN, r"linear\.bias \(expected float32, got int64\)"),
    ),
    "bin: crafted, intact": (
        archive({"linear.bias": Crafted(Storage(4), 0, (4,), (1,))}, FOUR),
        Noted("missing from", {"missing": ("embed.weight", "linear.weight", "nothing", "steps")}, four),
    ),
    "bin: high byte first": (
        big_endian,
        Refused(BIN, "not little-endian"),
    ),
    "bin: no such byte order": (
        archive({"linear.bias": Crafted(Storage(4), 0, (4,), (1,))}, FOUR, others={"byteorder": b"middle"}),
        Refused(BIN, BEYOND),
    ),
    "bin: strides beyond the storage": (
        archive({"linear.bias": Crafted(Storage(4), 0, (4,), (1000,))}, FOUR),
        Refused(BIN, BEYOND),
    ),
    "bin: strides far beyond any memory": (
        archive({"linear.bias": Crafted(Storage(4), 0, (4,), (2**61,))}, FOUR),
        Refused(BIN, BEYOND),
    ),
    "bin: sizes beyond the storage": (
        archive({"embed.weight": Crafted(Storage(4), 0, (16, 8), (8, 1))}, FOUR),
        Refused(BIN, BEYOND),
    ),
    "bin: an offset beyond the storage": (
        archive({"linear.bias": Crafted(Storage(4), 2**40, (4,), (1,))}, FOUR),
        Refused(BIN, BEYOND),
    ),
    "bin: a negative offset": (
        archive({"linear.bias": Crafted(Storage(4), -4, (4,), (1,))}, FOUR),
        Refused(BIN, BEYOND),
    ),
    "bin: a negative stride": (
        archive({"linear.bias": Crafted(Storage(4), 3, (4,), (-1,))}, FOUR),
        Refused(BIN, BEYOND),
    ),
    "bin: a negative size": (
        archive({"linear.bias": Crafted(Storage(4), 0, (-4,), (1,))}, FOUR),
        Refused(BIN, BEYOND),
    ),
    "bin: sizes that are texts": (
        archive({"linear.bias": Crafted(Storage(4), 0, ("4",), (1,))}, FOUR),
        Refused(BIN, BEYOND),
    ),
    "bin: fewer strides than sizes": (
        archive({"linear.bias": Crafted(Storage(4), 0, (2, 2), (1,))}, FOUR),
        Refused(BIN, BEYOND),
    ),
    "bin: no storage": (
        archive({"linear.bias": Crafted(None, 0, (4,), (1,))}, FOUR),
        Refused(BIN, BEYOND),
    ),
    "bin: a missing storage": (
        archive({"linear.bias": Crafted(Storage(4, "7"), 0, (4,), (1,))}, FOUR),
        Refused(BIN, BEYOND),
    ),
    "bin: a storage outside the archive": (
        archive({"linear.bias": Crafted(Storage(4, "../../../etc/passwd"), 0, (4,), (1,))}, FOUR),
        Refused(BIN, BEYOND),
    ),
    "bin: a storage shorter than it says": (
        archive({"embed.weight": Crafted(Storage(128), 0, (16, 8), (8, 1))}, FOUR, b"\0" * 600),
        Refused(BIN, "damaged"),
    ),
    "bin: a storage of a terabyte": (
        archive({"embed.weight": Crafted(Storage(2**40), 0, (2**20, 2**20), (2**20, 1))}, FOUR),
        Refused(BIN, BEYOND),
    ),
    "bin: a storage of negative size": (
        archive({"linear.bias": Crafted(Storage(-4), 0, (4,), (1,))}, FOUR),
        Refused(BIN, BEYOND),
    ),
    "bin: a terabyte of one number": (
        saved(lambda: values(embed__weight=torch.zeros(1).expand(2**20, 2**20))),
        Refused(BIN, r"1 tensor with a different shape: embed\.weight"),
    ),
    "bin: a terabyte of one number, unasked for": (
        saved(lambda: values() | {"more": torch.zeros(1).expand(2**20, 2**20)}),
        Noted("not in the model: more", {"unexpected": ("more",)}),
    ),
    "bin: one row for all": (
        saved(lambda: values(embed__weight=torch.ones(1, 8).expand(16, 8))),
        Loads(lambda: values(embed__weight=torch.ones(16, 8))),
    ),
    "bin: transposed": (
        saved(lambda: values(embed__weight=values()["embed.weight"].t().contiguous().t())),
        Loads(),
    ),
    "bin: part of something larger": (
        saved(lambda: values(embed__weight=torch.cat([torch.ones(5, 8), values()["embed.weight"]])[5:])),
        Loads(),
    ),
    "bin: a negated view": (
        saved(lambda: values(linear__bias=torch.complex(torch.ones(4), torch.ones(4)).conj().imag)),
        Loads(lambda: values(linear__bias=-torch.ones(4))),
    ),
    "bin: NaN": (
        saved(lambda: values(linear__bias=torch.tensor([0.0, math.nan, 1.0, 2.0]))),
        Noted(
            r"with NaN or Inf: linear\.bias",
            {"non_finite": ("linear.bias",)},
            lambda: values(linear__bias=torch.tensor([0.0, math.nan, 1.0, 2.0])),
        ),
    ),
    "bin: half a gigabyte of nothing": (
        instructions(b"}", text("x"), b"cbuiltins\nbytearray\nJ", struct.pack("<i", 2**29), b"\x85Rs"),
        Refused(BIN, "not a mapping of names to tensors|damaged|holds code"),
    ),
    "bin: a text whose encoding takes for ever": (
        instructions(b"}", text("x"), b"c_codecs\nencode\n", text(MANY_LETTERS), text("punycode"), b"\x86Rs"),
        Refused(BIN, "not a mapping of names to tensors|damaged|holds code"),
    ),
    "bin: a tensor whose values are not in the file": (
        instructions(b"}", text("linear.bias"), b"ctorch\nTensor\nK\x04\x85Rs"),
        Refused(BIN, "damaged|holds"),
    ),
    "bin: strides beyond the storage, before torch 1.6": (
        legacy({"linear.bias": Crafted(Storage(4), 0, (4,), (1000,))}, FOUR),
        Refused(BIN, BEYOND),
    ),
    "bin: sizes beyond the storage, before torch 1.6": (
        legacy({"embed.weight": Crafted(Storage(4), 0, (16, 8), (8, 1))}, FOUR),
        Refused(BIN, BEYOND),
    ),
    "bin: a storage longer than the file, before torch 1.6": (
        legacy({"embed.weight": Crafted(Storage(128), 0, (16, 8), (8, 1))}, FOUR),
        Refused(BIN, BEYOND),
    ),
    "bin: a storage of terabytes, before torch 1.6": (
        legacy({"embed.weight": Crafted(Storage(2**44), 0, (2**20, 2**24), (2**24, 1))}, FOUR),
        Refused(BIN, BEYOND),
    ),
    "bin: a missing storage, before torch 1.6": (
        legacy({"linear.bias": Crafted(Storage(4), 0, (4,), (1,))}),
        Refused(BIN, BEYOND),
    ),
    "bin: crafted, before torch 1.6": (
        legacy({"linear.bias": Crafted(Storage(4), 0, (4,), (1,))}, FOUR),
        Noted("missing from", {"missing": ("embed.weight", "linear.weight", "nothing", "steps")}, four),
    ),
    "a pickle among safetensors runs a program": (
        pickle_among_safetensors(lambda: {"steps": Runs(os.system, "touch owned")}),
        Refused("second.bin", NO_CODE),
    ),
    "a pickle among safetensors": (
        pickle_among_safetensors(lambda: {name: tensor for name, tensor in values().items() if name != "embed.weight"}),
        Loads(),
    ),
}

# Both outcomes are correct here: refusing, and loading the exact values.
EITHER: dict[str, tuple[Builder, Callable[[], State]]] = {
    "bin: compressed": (zipped_again(zipfile.ZIP_DEFLATED), values),
    "bin: storages compressed": (
        archive({"linear.bias": Crafted(Storage(4), 0, (4,), (1,))}, FOUR, method=zipfile.ZIP_DEFLATED),
        four,
    ),
    **{
        f"bin: {name}() of the dict is hidden": (
            archive(Hidden(name, {"linear.bias": Crafted(Storage(4), 0, (4,), (1,))}), FOUR),
            four,
        )
        for name in ("items", "keys", "values", "get")
    },
    **{
        f"bin: {name}() of a tensor is hidden": (
            archive({"linear.bias": HiddenInTensor(name, Crafted(Storage(4), 0, (4,), (1,)))}, FOUR),
            four,
        )
        for name in ("detach", "contiguous", "numel", "to", "is_floating_point")
    },
}


# ---------------------------------------------------------------------------------------------------------------------
# Paths without a checkpoint


def link_loop(directory: Path) -> Path:
    (directory / "loop").symlink_to("loop")
    return directory / "loop"


def broken_link(directory: Path) -> Path:
    (directory / SINGLE).symlink_to("gone")
    return directory / SINGLE


def fifo(directory: Path) -> Path:
    os.mkfifo(directory / SINGLE)
    return directory / SINGLE


def below_a_file(directory: Path) -> Path:
    (directory / "notes").write_text("mine")
    return directory / "notes" / SINGLE


PLACES: dict[str, tuple[Builder, Outcome]] = {
    "a directory without weights": (lambda directory: directory, Refused("", "contains no weights")),
    "nothing there": (lambda directory: directory / "nowhere", Refused("nowhere", "does not exist")),
    "a path below a file": (below_a_file, Refused(SINGLE, "does not exist|cannot be read")),
    "a path of 300 letters": (
        lambda directory: directory / ("n" * 300),
        Refused("nnn", "cannot be read: File name too long"),
    ),
    "a link to itself": (link_loop, Refused("loop", "is a broken link|contains a loop of symbolic links")),
    "a path below a link to itself": (
        lambda directory: link_loop(directory) / SINGLE,
        Refused("loop", "contains a loop of symbolic links"),
    ),
    "a broken link": (broken_link, Refused(SINGLE, "is a broken link")),
    "a directory whose file is a broken link": (
        lambda directory: broken_link(directory).parent,
        Refused(SINGLE, "contains no weights|is missing"),
    ),
    "a FIFO": (fifo, Refused(SINGLE, "neither a directory nor a regular file|not a regular file")),
    "a directory whose file is a FIFO": (
        lambda directory: fifo(directory).parent,
        Refused(SINGLE, "not a regular file"),
    ),
    "a directory whose file is a directory": (entry_is(Path.mkdir, SINGLE), Refused(SINGLE, "not a regular file")),
    "a device": (lambda _: Path("/dev/zero"), Refused("/dev/zero", "neither a directory nor a regular file")),
    "a damaged file beside a good one": (beside_an_intact_bin, Refused(SINGLE, "truncated")),
}

CASES: dict[str, tuple[Builder, Outcome]] = HEADERS | INDEXES | PICKLES | PLACES


# ---------------------------------------------------------------------------------------------------------------------
# The tests


class TooSlow(BaseException):
    """An exception that no handler in the program catches."""


def _too_slow(*_: object) -> None:
    raise TooSlow


def _memory(what: str) -> int:
    found = re.search(rf"{what}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None
    return int(found[1]) * 1024


@contextmanager
def guarded() -> Iterator[None]:
    """Fail if the block takes long, blocks, or needs much memory."""
    before = signal.signal(signal.SIGALRM, _too_slow)
    Path("/proc/self/clear_refs").write_text("5")  # resets the peak
    resident, start = _memory("VmRSS"), time.monotonic()
    signal.setitimer(signal.ITIMER_REAL, 4 * SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert time.monotonic() - start < SECONDS
    assert _memory("VmHWM") - resident < MEMORY


def snapshot(model: nn.Module) -> dict[str, tuple[torch.dtype, torch.Size, bytes]]:
    """Return values that are equal for equal bits, including NaN."""
    return as_bits(model.state_dict())


def as_bits(state: State) -> dict[str, tuple[torch.dtype, torch.Size, bytes]]:
    return {name: (tensor.dtype, tensor.shape, bytes_of(tensor)) for name, tensor in state.items()}


def check_text(text: str) -> None:
    """Check that a message is one short printable line."""
    assert "\n" not in text
    assert text.isprintable()
    assert len(text) < TEXT


def refuse(path: Path, model: nn.Module, outcome: Refused, **options: Any) -> None:
    """Load and expect a refusal in one line."""
    before = snapshot(model)
    with guarded(), pytest.raises(CheckpointError) as refused:
        load_checkpoint(path, model, **options)
    text = str(refused.value)
    check_text(text)
    assert outcome.file in text
    assert re.search(outcome.reason, text)
    assert snapshot(model) == before


def load(path: Path, model: nn.Module, **options: Any) -> tuple[LoadReport, list[str]]:
    """Load, and return the report and the warnings."""
    with guarded(), warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        report = load_checkpoint(path, model, **options)
    return report, [str(item.message) for item in said]


def cases(kind: type[Outcome]) -> list[str]:
    return [name for name, (_, outcome) in CASES.items() if isinstance(outcome, kind)]


@pytest.fixture
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return an empty directory without siblings, as the working directory."""
    place = tmp_path / "model"
    place.mkdir()
    monkeypatch.chdir(place)
    return place


@pytest.mark.filterwarnings("ignore")  # torch warns about prototype and deprecated kinds of tensors
@pytest.mark.parametrize("name", cases(Refused))
def test_refused(directory: Path, name: str) -> None:
    build, outcome = CASES[name]
    assert isinstance(outcome, Refused)
    path = build(directory)
    refuse(path, Net(), outcome)
    assert not (directory / "owned").exists()


@pytest.mark.parametrize("assign", [False, True])
@pytest.mark.parametrize("name", cases(Loads))
def test_loads(directory: Path, name: str, assign: bool) -> None:
    build, outcome = CASES[name]
    assert isinstance(outcome, Loads)
    model, expected = Net(), outcome.state()
    report, said = load(build(directory), model, assign=assign)
    assert snapshot(model) == as_bits(expected)
    assert report.complete
    assert set(report.loaded) == set(expected)
    assert report.non_finite == (None if assign else ())
    assert said == []


@pytest.mark.parametrize("name", cases(Noted))
def test_loads_and_is_noted(directory: Path, name: str) -> None:
    build, outcome = CASES[name]
    assert isinstance(outcome, Noted)
    model = Net()
    before, expected = snapshot(model), as_bits(outcome.state())
    report, said = load(build(directory), model)
    for kind in ("missing", "unexpected", "other_shape", "non_finite"):
        found = tuple(item if isinstance(item, str) else item.name for item in getattr(report, kind))
        assert sorted(found) == sorted(outcome.fields.get(kind, ())), kind
    after = snapshot(model)
    loaded = set(report.loaded)
    assert loaded == set(after) - set(outcome.fields.get("missing", ())) - set(outcome.fields.get("other_shape", ()))
    assert after == {name: expected[name] if name in loaded else before[name] for name in after}
    assert len(said) == 1
    check_text(said[0])
    assert re.search(outcome.warning, said[0])


@pytest.mark.parametrize("name", EITHER)
def test_refused_or_loads(directory: Path, name: str) -> None:
    build, state = EITHER[name]
    model = Net()
    before, expected = snapshot(model), as_bits(state())
    try:
        report, said = load(build(directory), model)
    except CheckpointError as error:
        check_text(str(error))
        assert BIN in str(error)
        assert snapshot(model) == before
    else:
        assert "linear.bias" in report.loaded
        assert snapshot(model) == {name: (expected if name in report.loaded else before)[name] for name in before}
        assert not [text for text in said if "missing from" not in text]


def test_corpus_is_large() -> None:
    assert len(CASES) == sum(map(len, (HEADERS, INDEXES, PICKLES, PLACES)))
    assert len(CASES) + len(EITHER) > 200


@pytest.mark.parametrize("safetensors", [False, True])
def test_changed_byte_is_detected_by_verification(directory: Path, safetensors: bool) -> None:
    model = Net()
    model.load_state_dict(values())
    written = save_checkpoint(directory, model, safetensors=safetensors)
    shard = directory / written.files[0]
    content = bytearray(shard.read_bytes())
    content[content.index(bytes_of(values()["linear.weight"]))] ^= 1
    shard.write_bytes(content)
    refuse(directory, Net(), Refused(shard.name, "has changed since it was saved"), verify_checksums=True)
    other = Net()
    report, said = load(directory, other)
    assert report.complete
    assert report.verified is None
    assert said == []
    assert snapshot(other)["linear.weight"] != snapshot(model)["linear.weight"]


def test_an_intact_checkpoint_is_verified(directory: Path) -> None:
    written = save_checkpoint(directory, Net(), safetensors=True)
    report, said = load(directory, Net(), verify_checksums=True)
    assert report.verified == written.files[:1]
    assert report.unverified == ()
    assert said == []


@pytest.mark.parametrize("name", ["intact", "index, intact", "index: odd records", "bin, intact"])
def test_verification_without_checksums_loads_with_a_warning(directory: Path, name: str) -> None:
    model = Net()
    report, said = load(CASES[name][0](directory), model, verify_checksums=True)
    assert snapshot(model) == as_bits(values())
    assert report.verified == ()
    assert len(report.unverified) in {1, 2}
    assert len(said) == 1
    assert said[0].startswith(f"{report.path} has no recorded checksum for")


@pytest.mark.parametrize("assign", [False, True])
@pytest.mark.parametrize("size", [0, 400, 1000])
def test_file_that_shrinks_while_it_is_open(directory: Path, size: int, assign: bool) -> None:
    path = file(SINGLE, intact)(directory)
    with Checkpoint.open(path) as checkpoint, guarded():
        os.truncate(path, size)
        with pytest.raises(CheckpointError, match=SINGLE) as refused:
            load_into(Net(), checkpoint, assign=assign)
    check_text(str(refused.value))


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
@pytest.mark.parametrize("name", [SINGLE, INDEX, SHARDS[0], BIN])
def test_unreadable_file(directory: Path, name: str) -> None:
    build = {SINGLE: CASES["intact"][0], BIN: CASES["bin, intact"][0]}.get(name, CASES["index, intact"][0])
    build(directory)
    (directory / name).chmod(0)
    refuse(directory, Net(), Refused(name, "cannot be read: Permission denied"))


@pytest.mark.skipif(os.geteuid() == 0, reason="root enters everything")
def test_inaccessible_directory(directory: Path) -> None:
    (directory / "closed").mkdir()
    path = CASES["intact"][0](directory / "closed")
    (directory / "closed").chmod(0)
    try:
        refuse(path, Net(), Refused(SINGLE, "cannot be read: Permission denied"))
    finally:
        (directory / "closed").chmod(0o700)


def test_a_pickle_that_exhausts_the_stack(directory: Path) -> None:
    """A name that is a tuple nested a million times: hashing it without a limit crashes the process."""
    path = instructions(b"})", b"\x85" * 1_000_000, b"K\x00s")(directory)
    program = (
        "import sys\n"
        "from tests.faults.test_corpus import CheckpointError, Net, load_checkpoint\n"
        "try:\n"
        "    load_checkpoint(sys.argv[1], Net())\n"
        "except CheckpointError as error:\n"
        "    print(error)\n"
    )
    command = [sys.executable, "-c", program, str(path)]
    root = Path(__file__).parents[2]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert BIN in done.stdout
