"""Hostile files: each command ends soon, in little memory, with short and clean output."""

from __future__ import annotations

import json
import os
import pickle
import re
import socket
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from tests.faults.commands import Commands, Done
from tests.faults.test_corpus import BIN, INDEX, SINGLE, framed, parts, sparse

pytestmark = pytest.mark.faults


def refused(done: Done, *patterns: str) -> None:
    assert done.code == 2, done.both[-2000:]
    assert done.err.count("\n") == 1
    for pattern in patterns:
        assert re.search(pattern, done.err), done.err


@pytest.fixture
def model(memory_path: Path) -> Path:
    """A directory with weights and nothing else."""
    directory = memory_path / "model"
    directory.mkdir()
    (directory / SINGLE).write_bytes(framed(*parts({"a.weight": torch.ones(2, 3)})))
    return directory


# H3 ------------------------------------------------------------------------------------------------------------------


def fifo(file: Path) -> None:
    os.mkfifo(file)


def unix_socket(file: Path) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        before = Path.cwd()
        os.chdir(file.parent)  # the path of a socket must be short
        server.bind(file.name)
        os.chdir(before)


def device(file: Path) -> None:
    file.symlink_to("/dev/zero")


def huge(file: Path) -> None:
    sparse(file, 2**32)


def nested(file: Path) -> None:
    file.write_text('{"model_type": ' + "[" * 200_000)


def nested_900(file: Path) -> None:
    file.write_text('{"model_type": "llama", "x": ' + "[" * 900 + "]" * 900 + "}")


def twice(file: Path) -> None:
    file.write_text('{"model_type": "llama", "model_type": "llama"}')


def nan(file: Path) -> None:
    file.write_text('{"model_type": "llama", "rms_norm_eps": NaN}')


ODD_FILES: dict[str, Callable[[Path], None]] = {
    made.__name__: made for made in (fifo, unix_socket, device, huge, nested, nested_900, twice, nan)
}


@pytest.mark.regression("H3")
@pytest.mark.parametrize("kind", ODD_FILES)
def test_odd_config_json_is_refused_by_like_and_verify(forgather: Commands, model: Path, kind: str) -> None:
    ODD_FILES[kind](model / "config.json")
    refused(forgather("-t", "llama", "model", "--from-config", model, "show", cwd=model), "config.json")
    refused(forgather("verify", model, cwd=model), "config.json")


@pytest.mark.regression("H3")
@pytest.mark.parametrize("kind", ["fifo", "huge", "nested"])
def test_weights_are_read_despite_odd_config_json(forgather: Commands, model: Path, kind: str) -> None:
    ODD_FILES[kind](model / "config.json")
    assert "a.weight" in forgather("checkpoint", "inspect", model, cwd=model).out


@pytest.mark.regression("H3")
@pytest.mark.parametrize("name", ["generation_config.json", "tokenizer_config.json", "tokenizer.json"])
@pytest.mark.parametrize("kind", ["fifo", "huge"])
def test_odd_files_beside_config_json_are_refused(forgather: Commands, model: Path, kind: str, name: str) -> None:
    (model / "config.json").write_text('{"model_type": "llama"}')
    ODD_FILES[kind](model / name)
    refused(forgather("-t", "llama", "model", "--from-config", model, "show", cwd=model), name)


@pytest.mark.regression("H3")
@pytest.mark.parametrize("kind", ["fifo", "device", "huge"])
def test_odd_yaml_and_templates_are_refused(forgather: Commands, model: Path, kind: str) -> None:
    ODD_FILES[kind](model / "mine.yaml")
    refused(forgather("-t", "mine.yaml", "model", "show", cwd=model), "mine")
    refused(forgather("-t", "llama", "model", "--hardware", "mine.yaml", "estimate", cwd=model), "mine.yaml")


@pytest.mark.regression("H3")
def test_huge_config_json_is_not_copied(forgather: Commands, model: Path) -> None:
    ODD_FILES["huge"](model / "config.json")
    refused(forgather("checkpoint", "convert", model, "converted", cwd=model), "config.json")


@pytest.mark.regression("H6")
def test_control_characters_of_config_json_do_not_reach_the_terminal_from_verify(
    forgather: Commands, model: Path
) -> None:
    (model / "config.json").write_text('{"model_type": "\\u001b[2J\\u202e"}')
    refused(forgather("verify", model, cwd=model), "config.json", r"x1b\[2J")


@pytest.mark.regression("H3")
def test_yaml_and_json_of_very_many_values_are_refused(forgather: Commands, model: Path) -> None:
    (model / "mine.yaml").write_text(
        "extends: llama\na0: &a0 [x]\n"
        + "".join(f"a{n + 1}: &a{n + 1} [{','.join([f'*a{n}'] * 9)}]\n" for n in range(12))
    )
    refused(forgather("-t", "mine.yaml", "model", "show", cwd=model), "mine.yaml:")
    count = 6_000_000
    with (model / SINGLE).open("wb") as file:
        file.write(struct.pack("<Q", 13 * count + 19) + b'{"__metadata__":{')
        for n in range(0, count, 10_000):
            file.write(b"".join(b'"%07x":"",' % k for k in range(n, n + 10_000)))
        file.write(b"}}")
    assert "1,500,000 values" in forgather("checkpoint", "inspect", model, cwd=model).both


# H4 ------------------------------------------------------------------------------------------------------------------


def archive(file: Path, description: bytes) -> None:
    with zipfile.ZipFile(file, "w") as written:
        written.writestr("archive/data.pkl", description)
        written.writestr("archive/byteorder", "little")


def _long(number: int) -> bytes:
    return pickle.LONG1 + b"\x0a" + number.to_bytes(10, "little", signed=True)


PRIME = 2**61 - 1  # Python's hash of an integer is its remainder
PICKLES: dict[str, bytes] = {
    "colliding names": b"\x80\x02}(" + b"".join(_long(n * PRIME) + b"N" for n in range(1, 40_000)) + b"u.",
    "negative names": b"\x80\x02}(" + b"".join(_long(-n * PRIME) + b"N" for n in range(1, 40_000)) + b"u.",
    "colliding memo": b"\x80\x02}" + b"".join(b"p%d\n" % (n * PRIME) for n in range(1, 40_000)) + b".",
    "lists": b"\x80\x02" + b"]" * 45_000_000 + b".",
    "marks": b"\x80\x02" + b"(" * 45_000_000 + b".",
    "memo": b"\x80\x04}" + b"\x94" * 45_000_000 + b".",
    "a list of lists": b"\x80\x02]" + b"]a" * 13_000_000 + b".",
    "dictionaries": b"\x80\x02]" + b"}a" * 13_000_000 + b".",
    "a long text": b"\x80\x02X" + struct.pack("<I", 2**31) + b"x.",
    "a number of a megabyte": b"\x80\x02L" + b"9" * 2**20 + b"L\n.",
}


@pytest.mark.regression("H4")
@pytest.mark.few(8)
@pytest.mark.parametrize("old", [False, True])
@pytest.mark.parametrize("name", PICKLES)
def test_pickles_are_bounded(forgather: Commands, model: Path, name: str, old: bool) -> None:
    file = model / BIN
    if old:
        file.write_bytes(b"".join(pickle.dumps(x, 2) for x in (0x1950A86A20F9469CFC6C, 1001, {})) + PICKLES[name])
    else:
        archive(file, PICKLES[name])
    refused(forgather("checkpoint", "inspect", file, cwd=model), BIN)


@pytest.mark.parametrize("shared", [False, True])
def test_thousands_of_tensors_load(forgather: Commands, model: Path, shared: bool) -> None:
    one = torch.zeros(4)
    torch.save({f"experts.{n}.weight": one[:2] if shared else torch.zeros(2) for n in range(20_000)}, model / BIN)
    assert "20000" in forgather("checkpoint", "inspect", model / BIN, cwd=model).out.replace(",", "")


# H5 ------------------------------------------------------------------------------------------------------------------


def zip64(size: int, count: int, start: int) -> bytes:
    end = struct.pack("<4sQ2H2L4Q", b"PK\x06\x06", 44, 45, 45, 0, 0, count, count, size, start)
    locator = struct.pack("<4sLQL", b"PK\x06\x07", 0, start + size, 1)
    return end + locator + struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, 65535, 65535, 2**32 - 1, 2**32 - 1, 0)


@pytest.mark.regression("H5")
@pytest.mark.parametrize("count", [1, 2**32, 65_000_000])
def test_a_directory_of_gigabytes_is_refused(forgather: Commands, model: Path, count: int) -> None:
    with (model / BIN).open("wb") as file:
        file.write(b"PK\x03\x04")
        file.seek(3 * 10**9)
        file.write(zip64(3 * 10**9, count, 0))
    refused(forgather("checkpoint", "inspect", model / BIN, cwd=model), "archive")


@pytest.mark.regression("H5")
def test_very_many_records_are_refused(forgather: Commands, model: Path) -> None:
    entry = struct.pack("<4s6H3L5H2L", b"PK\x01\x02", 20, 20, 0, 0, 0, 0, 0, 0, 0, 8, 0, 0, 0, 0, 0, 0)
    records = b"".join(entry + b"d%07d" % n for n in range(700_000))
    (model / BIN).write_bytes(b"PK\x03\x04" + b"\0" * 26 + records + zip64(len(records), 700_000, 30))
    refused(forgather("checkpoint", "inspect", model / BIN, cwd=model), "700,000 records")


# H6, H9 --------------------------------------------------------------------------------------------------------------

NASTY = ["[/x]", "[red]", "\x1b[2J", "\x9b2J", "\x00", "\x7f", "\n", "\r"]
NASTY += ["\u202e", "\u2066", "\u200b", "\u2028", "\ud800"]


@pytest.fixture
def nasty(model: Path) -> Path:
    """Create an index and names full of terminal control characters."""
    (model / SINGLE).unlink()
    names = [f"t{text}.weight" for text in NASTY]
    (model / "model-1.safetensors").write_bytes(framed(*parts({name: torch.ones(1) for name in names})))
    metadata = {f"k{text}": f"v{text}" for text in NASTY} | {"n": 1e999, "total_size": "\x1b[31m"}
    text = json.dumps({"metadata": metadata, "weight_map": dict.fromkeys(names, "model-1.safetensors")})
    (model / INDEX).write_text(text.replace("Infinity", "1e999"))
    return model


@pytest.mark.regression("H6")
@pytest.mark.parametrize("options", [(), ("--all",), ("--json",)])
def test_nothing_in_a_checkpoint_reaches_the_terminal(
    forgather: Commands, nasty: Path, options: tuple[str, ...]
) -> None:
    done = forgather("checkpoint", "inspect", nasty, *options, cwd=nasty)
    assert done.code == 0
    assert "[/x]" in done.out
    if options == ("--json",):
        report = json.loads(done.out, parse_constant=pytest.fail)
        assert {item["name"] for item in report["tensors"]} == {f"t{text}.weight" for text in NASTY}
        assert done.out.isascii()


@pytest.mark.regression("H6")
def test_deeply_nested_metadata_raises_no_traceback(forgather: Commands, nasty: Path) -> None:
    content = json.loads((nasty / INDEX).read_text())
    deep = '{"a":' * 900 + "1" + "}" * 900
    content["metadata"] = {"x": "DEEP"}
    (nasty / INDEX).write_text(json.dumps(content).replace('"DEEP"', deep))
    for options in ((), ("--json",)):
        refused(forgather("checkpoint", "inspect", nasty, *options, cwd=nasty), "nested too deeply")


@pytest.mark.regression("H9")
def test_a_report_on_very_many_names_is_short(forgather: Commands, model: Path) -> None:
    count = 25_000  # their names alone exceed the limit of output
    header, data = {}, bytes(4 * count)
    for n in range(count):
        header[f"u{n}x"] = {"dtype": "F16", "shape": [1], "data_offsets": [2 * n, 2 * n + 2]}
    header["lm_head.weight"] = {"dtype": "F16", "shape": [count], "data_offsets": [2 * count, 4 * count]}
    (model / SINGLE).write_bytes(framed(header, data))
    done = forgather("checkpoint", "inspect", model, "--all", cwd=model)
    assert done.code == 0
    assert re.search(r"and \d+,\d+ more; --json lists all", done.out)
    done = forgather("checkpoint", "inspect", model, "--json", cwd=model, raw=True)
    assert len(json.loads(done.out)["tensors"]) == count + 1


@pytest.mark.regression("H9")
def test_very_many_non_finite_names_are_truncated(forgather: Commands, model: Path) -> None:
    (model / SINGLE).rename(model / "model-1.safetensors")
    metadata = {"non_finite": [f"name{n}" for n in range(200_000)]}
    index = {"metadata": metadata, "weight_map": {"a.weight": "model-1.safetensors"}}
    (model / INDEX).write_text(json.dumps(index))
    done = forgather("checkpoint", "inspect", model, cwd=model)
    assert done.code == 0
    assert "more" in done.out


# H10, H11 ------------------------------------------------------------------------------------------------------------


@pytest.mark.regression("H10")
@pytest.mark.parametrize(
    "make", [lambda: torch.zeros(1).expand(2**20, 2**20), lambda: torch.zeros(2**20).as_strided((2**19, 2**19), (1, 1))]
)
def test_expanded_tensors_are_not_written_in_full(
    forgather: Commands, model: Path, make: Callable[[], torch.Tensor]
) -> None:
    torch.save({"w": make()}, model / BIN)
    refused(forgather("checkpoint", "convert", model / BIN, model.parent / "new", cwd=model), BIN, "'w' repeats")
    assert not (model.parent / "new").exists()


def test_small_expanded_tensors_are_converted(forgather: Commands, model: Path) -> None:
    torch.save({"w": torch.arange(3.0).expand(4, 3)}, model / BIN)
    done = forgather("checkpoint", "convert", model / BIN, model.parent / "new", "--format", "safetensors", cwd=model)
    assert done.code == 0, done.err


@pytest.mark.regression("H11")
@pytest.mark.parametrize("limit", [1024, 256])
@pytest.mark.parametrize("suffix", [".safetensors", ".bin"])
def test_more_shards_than_descriptors(forgather: Commands, model: Path, suffix: str, limit: int) -> None:
    (model / SINGLE).unlink()
    entry, weight_map = (INDEX if suffix == ".safetensors" else BIN + ".index.json"), {}
    count = limit + 60
    for n in range(count):
        name = f"{'model' if suffix == '.safetensors' else 'pytorch_model'}-{n:05d}{suffix}"
        state = {f"{n}.weight": torch.full((3,), float(n))}
        if suffix == ".bin":
            torch.save(state, model / name)
        else:
            (model / name).write_bytes(framed(*parts(state)))
        weight_map[f"{n}.weight"] = name
    (model / entry).write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    program = f"""
import resource, sys, torch
resource.setrlimit(resource.RLIMIT_NOFILE, ({limit}, {limit}))
from torch import nn
from forgather_core.checkpoint import convert_checkpoint, inspect_checkpoint, load_checkpoint
def net():
    return nn.ModuleList(nn.ParameterDict({{"weight": nn.Parameter(torch.zeros(3))}}) for _ in range({count}))
for assign in (False, True):
    model = net()
    assert load_checkpoint(sys.argv[1], model, assign=assign).complete
    assert all(bool((p == n).all()) for n, p in enumerate(model.parameters()))
assert len(inspect_checkpoint(sys.argv[1], verify_checksums=True)["files"]) == {count}
convert_checkpoint(sys.argv[1], sys.argv[2], max_shard_size="1B")
assert load_checkpoint(sys.argv[2], net(), verify_checksums=True).complete
"""
    done = forgather.python(["-c", program, str(model), str(model.parent / "new")], cwd=model)
    assert done.code == 0, done.err[-1500:]


# H12 -----------------------------------------------------------------------------------------------------------------

FOREIGN = {
    "GGUF": (b"GGUF\x03\0\0\0" + b"\0" * 100, "GGUF"),
    "gzip": (b"\x1f\x8b\x08\0" + b"x" * 100, "gzip"),
    "zeros": (b"\0" * 5000, "zeros"),
    "html": (b"<!DOCTYPE html>\n<html></html>", "web page"),
    "lfs": (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 5\n", "git lfs pull"),
    "zip": (b"PK\x03\x04" + b"\0" * 100, "truncated|change its suffix to .bin"),
}


@pytest.mark.regression("H12")
@pytest.mark.parametrize("file", [SINGLE, BIN])
@pytest.mark.parametrize("kind", FOREIGN)
def test_foreign_files_are_named(forgather: Commands, model: Path, kind: str, file: str) -> None:
    content, pattern = FOREIGN[kind]
    (model / file).write_bytes(content)
    refused(forgather("checkpoint", "inspect", model / file, cwd=model), pattern)


@pytest.mark.regression("H12")
@pytest.mark.parametrize(
    ("name", "pattern"),
    [
        ("__0_0.distcp", "without .metadata"),
        ("global_step10", "zero_to_fp32"),
        ("zero_pp_rank_0_mp_rank_00_optim_states.pt", "DeepSpeed"),
        ("adapter_model.safetensors", "merge_and_unload"),
        ("tf_model.h5", "TensorFlow"),
        ("flax_model.msgpack", "Flax"),
        ("checkpoint-10", "checkpoint-10"),
        ("x.gguf", "GGUF"),
    ],
)
def test_foreign_directories_are_named(forgather: Commands, model: Path, name: str, pattern: str) -> None:
    (model / SINGLE).unlink()
    if "." in name:
        (model / name).write_bytes(b"x")
    else:
        (model / name).mkdir()
    refused(forgather("checkpoint", "inspect", model, cwd=model), "contains no weights", pattern)
