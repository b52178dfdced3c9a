"""The pickle of a state dict is read in every protocol, by public interfaces of Python alone."""

from __future__ import annotations

import ast
import inspect
import io
import pickle
import pickletools
from pathlib import Path

import pytest
import torch

from forgather_core.checkpoint.formats import torch_pickle
from forgather_core.checkpoint.formats.torch_globals import InvalidCheckpoint
from forgather_core.checkpoint.formats.torch_pickle import read_pickle
from forgather_core.checkpoint.read.reader import Checkpoint

PROTOCOLS = range(pickle.HIGHEST_PROTOCOL + 1)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_plain_values_are_read_as_python_reads_them(protocol: int) -> None:
    value: dict[object, object] = {
        "none": None,
        "truth": [True, False],
        "numbers": (0, 1, 255, 65536, -1, 2**31, 2**80, 0.5, float("inf")),
        "text": ["", "a", "é", "漢" * 300],
        "nested": {"empty": [(), [], {}], "one": (1,), "two": (1, 2), "three": (1, 2, 3)},
        "many": list(range(3000)),
        7: "an index",
    }
    value["again"] = value["nested"]
    assert read_pickle(io.BytesIO(pickle.dumps(value, protocol)), 0) == value


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("legacy", [False, True])
def test_a_file_of_torch_is_read_in_every_protocol(protocol: int, legacy: bool, tmp_path: Path) -> None:
    tensors = {"a.weight": torch.arange(6.0).view(2, 3), "b.bias": torch.ones(4, dtype=torch.bfloat16)}
    path = tmp_path / "pytorch_model.bin"
    torch.save(tensors, path, pickle_protocol=protocol, _use_new_zipfile_serialization=not legacy)
    with Checkpoint.open(path) as checkpoint:
        read = {name: checkpoint[name].mapped().clone() for name in checkpoint}
    assert read.keys() == tensors.keys()
    assert all(torch.equal(read[name], tensors[name]) for name in tensors)


def test_several_pickles_are_read_one_after_another() -> None:
    data = io.BytesIO(pickle.dumps(1, 2) + pickle.dumps([2], 4))
    assert [read_pickle(data, 0), read_pickle(data, 0)] == [1, [2]]


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"\x80\x63}.", "protocol 99"),
        (b"\x80\x02\x89e.", None),  # APPENDS without a mark
        (b"\x80\x02K\x01\x86.", "more values"),  # TUPLE2 of one value
        (b"\x80\x02cos\nsystem\n.", "code, which is not run: os.system"),
        (b"\x80\x04\x8c\x02os\x8c\x06system\x93.", "code, which is not run: os.system"),
        (b"\x80\x04K\x01K\x02\x93.", "not a string"),
        (b"\x80\x02U\x01\xe9.", "not ASCII"),
        (b"\x80\x02}K\x01a.", "not a list"),
        (b"\x80\x02C\x01a.", "SHORT_BINBYTES"),
        (b"\x80\x02}", None),  # no end
        (b"\x80\x02\xff.", None),  # an operation of a protocol to come
    ],
)
def test_anything_else_is_refused(data: bytes, reason: str | None) -> None:
    with pytest.raises(InvalidCheckpoint if reason else Exception, match=reason):
        read_pickle(io.BytesIO(data), 0)


def test_no_private_name_of_python_is_used() -> None:
    """Such names differ between versions of Python; a file would then look damaged."""
    tree = ast.parse(inspect.getsource(torch_pickle))
    used = {
        node.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute)
        and isinstance(node.value, ast.Name)
        and node.value.id in ("pickle", "pickletools")
    }
    assert used
    assert used <= {*pickle.__all__, *pickletools.__all__}
