"""`forgather checkpoint`, and the reports of `construct` on loaded weights."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import huggingface_hub.constants
import pytest
import torch

from forgather_core.checkpoint import Checkpoint

from .conftest import Cli, Ran

TINY = (
    "-t", "llama/4M", "model", "--num-hidden-layers", "1", "--hidden-size", "16", "--intermediate-size", "16",
    "--num-attention-heads", "2", "--tokenizer", "bytes", "--device", "cpu",
)  # fmt: skip
IGNORE = "--ignore-mismatched-sizes"


def read(path: str | Path) -> dict[str, torch.Tensor]:
    with Checkpoint.open(path) as opened:
        return {name: stored.tensor() for name, stored in opened.items()}


def same(a: str | Path, b: str | Path) -> bool:
    one, other = read(a), read(b)
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def construct(cli: Cli, directory: str, *arguments: str) -> Ran:
    return cli(*TINY, "--output-dir", directory, *arguments, "construct")


def flip_a_bit(directory: str | Path) -> Path:
    """Change the last byte of the first weight file."""
    file = sorted(f for f in Path(directory).iterdir() if f.suffix in (".bin", ".safetensors"))[0]
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    return file


@pytest.fixture(autouse=True)
def _offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Set offline mode directly: the environment variable is read only when the package is imported."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))


@pytest.fixture(scope="module")
def made_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The cached directory of `model`."""
    return tmp_path_factory.mktemp("made") / "model"


@pytest.fixture
def model(cli: Cli, made_once: Path) -> str:
    """The model directory `model` with weights, in the working directory."""
    if not made_once.exists():
        made = construct(cli, "model", "--save-checkpoint", "--safetensors", "--max-shard-size", "20KB")
        assert made.code == 0, made.err
        shutil.copytree("model", made_once)
    else:
        shutil.copytree(made_once, "model")
    return "model"


# --- inspect ---------------------------------------------------------------------------------------------------------


def test_inspect_shows_files_and_tensors(cli: Cli, model: str) -> None:
    ran = cli("checkpoint", "inspect", model)
    assert (ran.code, ran.err) == (0, "")
    assert "model.safetensors.index.json" in ran.out
    assert "model-00001-of-00003.safetensors" in ran.out
    assert "model.layers.*.self_attn.q_proj.weight" in ran.out
    assert "verified" not in ran.out
    assert "note:" not in ran.out


def test_inspect_all_lists_every_tensor(cli: Cli, model: str) -> None:
    ran = cli("checkpoint", "inspect", model, "--all")
    assert ran.code == 0
    assert "model.layers.0.self_attn.q_proj.weight" in ran.out
    assert "layers.*" not in ran.out


def test_inspect_as_json(cli: Cli, model: str) -> None:
    report = cli("checkpoint", "inspect", model, "--json").json
    assert (report["path"], report["format"], report["generation"]) == (model, "safetensors", 1)
    assert len(report["files"]) == 3
    assert [file["verified"] for file in report["files"]] == [None] * 3
    assert {tensor["name"] for tensor in report["tensors"]} == read(model).keys()
    assert report["notes"] == []


def test_inspect_verifies_on_request(cli: Cli, model: str) -> None:
    assert cli("checkpoint", "inspect", model, "--verify-checksums").out.count(", verified") == 3
    report = cli("checkpoint", "inspect", model, "--verify-checksums", "--json").json
    assert [file["verified"] for file in report["files"]] == [True] * 3
    file = flip_a_bit(model)
    assert cli("checkpoint", "inspect", model).code == 0
    error = cli("checkpoint", "inspect", model, "--verify-checksums").error
    assert f"{file} has changed since it was saved" in error


def test_inspect_takes_a_file(cli: Cli, model: str) -> None:
    file = sorted(Path(model).glob("*.safetensors"))[0]
    report = cli("checkpoint", "inspect", str(file), "--json").json
    assert (report["entry"], len(report["files"])) == (file.name, 1)


def test_inspect_prints_its_notes(cli: Cli, model: str) -> None:
    torch.save(read(model), Path(model) / "pytorch_model.bin")
    ran = cli("checkpoint", "inspect", model)
    assert ran.code == 0
    assert "note: pytorch_model.bin is another checkpoint in this directory" in ran.out


# --- convert ---------------------------------------------------------------------------------------------------------


def test_convert_writes_a_new_directory(cli: Cli, model: str) -> None:
    ran = cli("checkpoint", "convert", model, "made", "--format", "bin")
    assert (ran.code, ran.err) == (0, "")
    assert "Saved 12 tensors" in ran.out
    assert "to made: pytorch_model.bin" in ran.out.replace("\n", " ")
    assert same(model, "made")
    others = {file.name for file in Path(model).iterdir() if file.is_file() and "safetensors" not in file.name}
    assert "config.json" in others
    assert others <= {file.name for file in Path("made").iterdir()}


def test_convert_as_json(cli: Cli, model: str) -> None:
    config = Path(model) / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"dtype": "float32"}))
    report = cli(
        "checkpoint", "convert", model, "made", "--dtype", "bf16", "--keep", "norm", "--max-shard-size", "10KB",
        "--verify-checksums", "--json",
    ).json  # fmt: skip
    assert (report["path"], report["tensors"]) == ("made", 12)
    assert set(report["checksums"]) == {name for name in report["files"] if name.endswith(".safetensors")}
    assert "dtype kept: " in report["notes"][0]
    kept = {name for name, tensor in read("made").items() if tensor.dtype == torch.float32}
    assert kept == {name for name in read(model) if "norm" in name}
    assert json.loads((Path("made") / "config.json").read_text())["dtype"] == "bfloat16"


def test_convert_prints_its_notes(cli: Cli, model: str) -> None:
    ran = cli("checkpoint", "convert", model, "made", "--dtype", "bf16", "--keep", "lm_head")
    assert "note: dtype kept: lm_head.weight" in ran.out


def test_convert_in_place(cli: Cli, model: str) -> None:
    before = read(model)
    assert cli("checkpoint", "convert", model, f"{model}/", "--dtype", "float16").code == 0
    assert all(torch.equal(tensor, before[name].half()) for name, tensor in read(model).items())
    assert len(list(Path(model).glob("*.safetensors"))) == 1
    again = construct(cli, model, "--load-from-checkpoint", model, "--json").json
    assert again["loaded"]["problems"] == []


# --- errors ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "arguments", [("inspect",), ("convert",), ("convert", "model"), ("inspect", "--json")], ids=" ".join
)
def test_a_missing_argument_is_one_line(cli: Cli, arguments: tuple[str, ...]) -> None:
    error = cli("checkpoint", *arguments).error
    name = "DIR" if "inspect" in arguments else "SRC" if arguments == ("convert",) else "DST"
    usage = "inspect DIR" if "inspect" in arguments else "convert SRC DST"
    assert f"{name} is missing: add it, as in forgather checkpoint {usage}" in error


def test_one_argument_too_many_is_one_line(cli: Cli, model: str) -> None:
    assert "other" in cli("checkpoint", "inspect", model, "other").error
    assert "other" in cli("checkpoint", "convert", model, "made", "other").error
    assert not Path("made").exists()


@pytest.mark.parametrize("command", [("inspect",), ("convert",)], ids=" ".join)
@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("nowhere", "nowhere does not exist: name a model directory, a weight file or an index"),
        ("./no/where/at/all", "no/where/at/all does not exist: name a model directory"),
        ("no-owner/no-name", "no-owner/no-name is neither a local directory nor in the Hub cache"),
    ],
)
def test_an_unknown_path_is_one_line(cli: Cli, command: tuple[str, ...], path: str, message: str) -> None:
    target = ("made",) if command == ("convert",) else ()
    assert message in cli("checkpoint", *command, path, *target).error
    assert not list(Path().iterdir())


@pytest.mark.parametrize("command", ["inspect", "convert"])
def test_a_damaged_file_is_one_line(cli: Cli, model: str, command: str) -> None:
    file = sorted(Path(model).glob("*.safetensors"))[1]
    file.write_bytes(file.read_bytes()[:-1])
    target = ("made",) if command == "convert" else ()
    assert file.name in cli("checkpoint", command, model, *target).error
    file.unlink()
    assert f"{file.name} is missing" in cli("checkpoint", command, model, *target).error
    assert not Path("made").exists()


@pytest.mark.parametrize("command", ["inspect", "convert"])
def test_a_directory_without_weights_is_one_line(cli: Cli, command: str) -> None:
    Path("empty").mkdir()
    target = ("made",) if command == "convert" else ()
    assert "empty contains no weights" in cli("checkpoint", command, "empty", *target).error


def test_an_existing_target_is_one_line(cli: Cli, model: str) -> None:
    Path("made").mkdir()
    Path("made", "mine.txt").write_text("mine")
    assert "made already exists" in cli("checkpoint", "convert", model, "made").error
    assert [file.name for file in Path("made").iterdir()] == ["mine.txt"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--format", "safetensor"), "Did you mean 'safetensors'?"),
        (("--format", "gguf"), "--format must be one of safetensors, bin; got 'gguf'"),
        (("--max-shard-size", "5 parsecs"), "--max-shard-size must be a positive size; got '5 parsecs'"),
        (("--max-shard-size", "0"), "--max-shard-size must be a positive size; got '0'"),
        (("--dtype", "bfloat61"), "Did you mean 'bfloat16'?"),
        (("--dtype", "bf16", "--keep", "("), "--keep: '(' is not a valid regular expression"),
        (("--keep", "norm"), "--keep requires --dtype"),
        (("--formt", "bin"), "Did you mean --format?"),
        (("--dtype",), "--dtype"),
    ],
    ids=["format", "unknown format", "size", "no size", "dtype", "pattern", "keep alone", "option", "no value"],
)
def test_a_wrong_option_is_one_line(cli: Cli, model: str, options: tuple[str, ...], message: str) -> None:
    assert message in cli("checkpoint", "convert", model, "made", *options).error
    assert not Path("made").exists()


def test_a_misspelt_command_or_option_is_one_line(cli: Cli) -> None:
    assert "Did you mean 'inspect'?" in cli("checkpoint", "inspct", "x").error
    assert "Did you mean --verify-checksums?" in cli("checkpoint", "inspect", "x", "--verify-checksum").error


def test_a_changed_file_is_not_converted(cli: Cli, model: str) -> None:
    file = flip_a_bit(model)
    error = cli("checkpoint", "convert", model, "made", "--verify-checksums").error
    assert f"{file} has changed since it was saved" in error
    assert not Path("made").exists()


# --- construct -------------------------------------------------------------------------------------------------------


def test_construct_verifies_what_it_loads(cli: Cli, model: str) -> None:
    load = ("--load-from-checkpoint", model, "--verify-checksums")
    assert len(construct(cli, "other", *load, "--json").json["loaded"]["verified"]) == 3
    assert "Loaded 12 tensors from model, 3 files verified" in construct(cli, "other", *load).out
    file = flip_a_bit(model)
    assert f"{file} has changed since it was saved" in construct(cli, "third", *load).error
    assert not Path("third").exists()


def test_verify_checksums_requires_a_checkpoint(cli: Cli) -> None:
    assert "--verify-checksums requires --load-from-checkpoint" in construct(cli, "model", "--verify-checksums").error
    assert not list(Path().iterdir())


def test_files_without_a_checksum_are_noted(cli: Cli, model: str) -> None:
    torch.save(read(model), "whole.bin")
    load = ("--load-from-checkpoint", "whole.bin", "--verify-checksums")
    loaded = construct(cli, "other", *load, "--json").json["loaded"]
    assert (loaded["verified"], loaded["unverified"]) == ([], ["whole.bin"])
    assert "note: whole.bin has no recorded checksum for" in construct(cli, "other", *load).out


def test_a_complete_load_has_no_problems(cli: Cli, model: str) -> None:
    report = construct(cli, "other", "--load-from-checkpoint", model, "--seed", "5", "--json").json["loaded"]
    assert report == {
        "path": model, "loaded": 12, "missing": [], "unexpected": [], "other_shape": [], "non_finite": [],
        "verified": None, "unverified": [], "unused": [], "notes": [], "problems": [],
    }  # fmt: skip


@pytest.fixture
def odd(model: str) -> str:
    """Weights with one renamed tensor, one different shape, and one NaN."""
    state: dict[str, Any] = read(model)
    state["model.norm.wait"] = state.pop("model.norm.weight")
    state["lm_head.weight"] = torch.ones(3, 16)
    state["model.layers.0.mlp.up_proj.weight"][2, 1] = torch.nan
    torch.save(state, "odd.bin")
    return "odd.bin"


def test_mismatches_are_in_the_report(cli: Cli, odd: str) -> None:
    loaded = construct(cli, "other", "--load-from-checkpoint", odd, IGNORE, "--json").json["loaded"]
    assert loaded["loaded"] == 10
    assert loaded["missing"] == [{"name": "model.norm.weight", "hint": "the checkpoint has model.norm.wait"}]
    assert loaded["unexpected"] == ["model.norm.wait"]
    (other,) = loaded["other_shape"]
    assert (other["name"], other["stored"]) == ("lm_head.weight", [3, 16])
    assert loaded["non_finite"] == ["model.layers.0.mlp.up_proj.weight"]
    assert [problem.split(":")[0] for problem in loaded["problems"]] == [
        "1 tensor of the model is missing from odd.bin",
        "1 tensor of odd.bin is not in the model",
        "1 tensor of odd.bin has a different shape than in the model",
        "1 tensor was loaded from odd.bin with NaN or Inf",
    ]


def test_mismatches_are_shown_as_a_table_and_notes(cli: Cli, odd: str) -> None:
    ran = construct(cli, "other", "--load-from-checkpoint", odd, IGNORE)
    assert (ran.code, ran.err) == (0, "")
    assert "Loaded 10 tensors from odd.bin" in ran.out
    table = ran.out.partition("Not loaded")[2].partition("note:")[0]
    rows = [[cell.strip() for cell in line.split("|")[1:3]] for line in table.splitlines() if line.startswith("|")]
    assert rows[1:] == [
        ["missing", "model.norm.weight"],
        ["unexpected", "model.norm.wait"],
        ["other shape", "lm_head.weight"],
    ]
    assert "3 x 16 in the checkpoint" in table
    assert ran.out.count("note: ") == 4
    assert "note: 1 tensor was loaded from odd.bin with NaN or Inf: model.layers.0.mlp.up_proj.weight" in ran.out


def test_nan_is_reported_for_loaded_and_saved_weights(cli: Cli, odd: str) -> None:
    arguments = ("--load-from-checkpoint", odd, IGNORE, "--save-checkpoint")
    out = construct(cli, "other", *arguments).out
    assert "note: 1 tensor was saved with NaN or Inf: model.layers.0.mlp.up_proj.weight" in out
    saved = construct(cli, "third", *arguments, "--json").json["saved"]
    assert saved["notes"] == ["1 tensor was saved with NaN or Inf: model.layers.0.mlp.up_proj.weight"]
    (note,) = cli("checkpoint", "inspect", "third", "--json").json["notes"]
    assert note == "contained NaN or Inf when saved: model.layers.0.mlp.up_proj.weight"
    again = construct(cli, "fourth", "--load-from-checkpoint", "third", "--json").json["loaded"]
    assert again["non_finite"] == ["model.layers.0.mlp.up_proj.weight"]


@pytest.mark.regression("R8")
@pytest.mark.parametrize("shape", [(3, 16), (16, 262)], ids=["other", "transposed"])
@pytest.mark.parametrize("command", ["construct", "test"])
def test_a_tensor_of_another_shape_is_an_error(cli: Cli, model: str, shape: tuple[int, int], command: str) -> None:
    torch.save(read(model) | {"lm_head.weight": torch.ones(shape)}, "odd.bin")
    error = cli(*TINY, "--output-dir", "other", "--load-from-checkpoint", "odd.bin", "--save-checkpoint", command).error
    assert f"1 tensor with a different shape: lm_head.weight (expected 262 x 16, got {shape[0]} x {shape[1]}" in error
    assert ("transposed" in error) == (shape == (16, 262))
    assert IGNORE in error
    assert not Path("other").exists()


def test_ignore_mismatched_sizes_requires_a_checkpoint(cli: Cli) -> None:
    assert construct(cli, "other", IGNORE).error == f"{IGNORE} requires --load-from-checkpoint"


@pytest.mark.regression("R10")
def test_wrapped_names_are_loaded_and_noted(cli: Cli, model: str) -> None:
    torch.save({f"model._orig_mod.{n.removeprefix('model.')}": t for n, t in read(model).items()}, "wrapped.bin")
    ran = construct(cli, "other", "--load-from-checkpoint", "wrapped.bin", "--save-checkpoint", "--json")
    assert (ran.json["loaded"]["loaded"], ran.json["loaded"]["problems"]) == (12, [])
    assert "without '_orig_mod.'" in " ".join(ran.json["loaded"]["notes"])
    assert same("other", model)


QUANTIZED = {
    "gptq": {"q_proj.qweight": torch.int32, "q_proj.qzeros": torch.int32, "q_proj.scales": torch.float16,
             "q_proj.g_idx": torch.int32},
    "bitsandbytes": {"q_proj.weight": torch.uint8, "q_proj.weight.absmax": torch.float32,
                     "q_proj.weight.quant_map": torch.float32,
                     "q_proj.weight.quant_state.bitsandbytes__nf4": torch.uint8},
}  # fmt: skip


@pytest.mark.regression("R7")
@pytest.mark.parametrize("method", QUANTIZED)
def test_other_quantized_formats_are_refused_by_name(cli: Cli, model: str, method: str) -> None:
    config = json.loads(Path(model, "config.json").read_text()) | {"quantization_config": {"quant_method": method}}
    Path("quantized").mkdir()
    Path("quantized", "config.json").write_text(json.dumps(config))
    state = read(model)
    del state["model.layers.0.self_attn.q_proj.weight"]
    packed = {
        f"model.layers.0.self_attn.{name}": torch.ones(8, 2, dtype=dtype) for name, dtype in QUANTIZED[method].items()
    }
    torch.save(state | packed, "quantized/pytorch_model.bin")
    for error in (
        construct(cli, "other", "--load-from-checkpoint", "quantized").error,
        cli("checkpoint", "convert", "quantized", "converted", "--dtype", "bf16").error,
    ):
        assert f"quantized is quantized ({method}" in error
    assert not Path("other").exists()
    assert not Path("converted").exists()
    assert f"quantized ({method}" in cli("checkpoint", "inspect", "quantized").out


def test_weights_of_another_model_are_one_line(cli: Cli) -> None:
    torch.save({"other": torch.ones(1)}, "whole.bin")
    assert "load a checkpoint of this model" in construct(cli, "other", "--load-from-checkpoint", "whole.bin").error
    assert not Path("other").exists()


@pytest.mark.few(1)
@pytest.mark.parametrize("form", [(), ("--safetensors",)], ids=["bin", "safetensors"])
def test_a_rebuilt_directory_can_keep_its_weights(cli: Cli, model: str, form: tuple[str, ...]) -> None:
    before = read(model)
    carried = ("-r", "--load-from-checkpoint", model, "--save-checkpoint", "--seed", "5", *form)
    for _ in range(2):
        report = construct(cli, model, *carried, "--json").json
        assert report["loaded"]["problems"] == []
        after = read(model)
        assert before.keys() == after.keys()
        assert all(torch.equal(before[name], after[name]) for name in before)
        weights = {f.name for f in Path(model).iterdir() if f.name.startswith(("model", "pytorch_model"))}
        assert {name for name in weights if not name.endswith(".py")} == set(report["saved"]["files"])
    assert [entry.name for entry in Path().iterdir()] == [model]


def test_a_rebuilt_directory_without_a_load_has_new_weights(cli: Cli, model: str) -> None:
    before = read(model)
    construct(cli, model, "-r", "--save-checkpoint", "--seed", "5")
    assert not torch.equal(read(model)["lm_head.weight"], before["lm_head.weight"])
