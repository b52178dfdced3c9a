"""A converted checkpoint has the same values, or those rounded to the new dtype, and is complete."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from forgather_core.checkpoint import (
    Checkpoint,
    convert_checkpoint,
    link_checkpoint,
    load_checkpoint,
    save_checkpoint,
)
from forgather_core.errors import ForgatherError

MIXED = {
    "embed.weight": torch.randn(16, 8).bfloat16(),
    "layers.0.weight": torch.randn(8, 8).bfloat16(),
    "layers.0.gain": torch.tensor(1 / 3),  # float32 among bfloat16
    "layers.0.steps": torch.tensor([3, -4]),
    "layers.0.mask": torch.tensor([True, False, True]),
    "nothing": torch.empty(0, 4, dtype=torch.bfloat16),
    "special": torch.tensor([torch.nan, torch.inf, -torch.inf, -0.0]).bfloat16(),
    "eighth": torch.randn(5).to(torch.float8_e4m3fn),
}
FORMATS = pytest.mark.parametrize("form", ["safetensors", "bin"])
FILES = {"safetensors": "*.safetensors", "bin": "*.bin"}


class Holder(nn.Module):
    """Hold tensors under names with dots."""

    def __init__(self, tensors: dict[str, Tensor]) -> None:
        super().__init__()
        for name, tensor in tensors.items():
            *path, leaf = name.split(".")
            module: nn.Module = self
            for part in path:
                if part not in dict(module.named_children()):
                    module.add_module(part, nn.Module())
                module = module.get_submodule(part)
            module.register_buffer(leaf, tensor)


def saved(path: Path, tensors: dict[str, Tensor] = MIXED, *, form: str = "safetensors", limit: str = "5GB") -> Path:
    save_checkpoint(path, Holder(tensors), safetensors=form == "safetensors", max_shard_size=limit)
    return path


def read(path: Path) -> dict[str, Tensor]:
    with Checkpoint.open(path) as opened:
        return {name: stored.tensor() for name, stored in opened.items()}


def bits(tensor: Tensor) -> bytes:
    return tensor.contiguous().flatten().view(torch.uint8).numpy().tobytes()


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(
        (a[name].dtype, a[name].shape, bits(a[name])) == (b[name].dtype, b[name].shape, bits(b[name])) for name in a
    )


def names(directory: Path) -> list[str]:
    return sorted(entry.name for entry in directory.iterdir())


def llama(*, dtype: torch.dtype = torch.float32, tied: bool = False) -> Any:
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_attention_heads": 2, "num_hidden_layers": 1}
    return LlamaForCausalLM(LlamaConfig(vocab_size=32, tie_word_embeddings=tied, **sizes)).to(dtype)


# --- format, size ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("limit", ["5GB", "200B", "1B"])
@pytest.mark.parametrize("to", ["safetensors", "bin"])
@FORMATS
def test_conversion_preserves_every_bit(tmp_path: Path, form: str, to: str, limit: str) -> None:
    source, target = saved(tmp_path / "a", form=form), tmp_path / "b"
    made = convert_checkpoint(source, target, format=to, max_shard_size=limit)
    assert same(read(target), MIXED)
    assert same(read(source), MIXED)
    assert sorted(made.files) == names(target)
    assert (made.path, made.tensors, made.bytes) == (target, len(MIXED), sum(t.nbytes for t in MIXED.values()))
    assert len(list(target.glob(FILES[to]))) == len(made.files) - (limit != "5GB")
    with Checkpoint.open(target) as opened:
        assert set(opened.verify()) == set(opened.files) == set(made.checksums)


@FORMATS
def test_format_is_kept_by_default(tmp_path: Path, form: str) -> None:
    saved(tmp_path / "a", form=form)
    convert_checkpoint(str(tmp_path / "a"), str(tmp_path / "b"))
    assert len(list((tmp_path / "b").glob(FILES[form]))) == 1


def test_conversion_there_and_back_gives_equal_files(tmp_path: Path) -> None:
    source = saved(tmp_path / "a", limit="200B")
    convert_checkpoint(source, tmp_path / "b", format="bin")
    convert_checkpoint(tmp_path / "b", tmp_path / "c", format="safetensors", max_shard_size=200)
    assert names(source) == names(tmp_path / "c")
    assert all(file.read_bytes() == (tmp_path / "c" / file.name).read_bytes() for file in source.iterdir())


def test_the_source_may_be_a_file_or_an_index(tmp_path: Path) -> None:
    source = tmp_path / "a"
    source.mkdir()
    save_file(MIXED, source / "weights.safetensors")
    (source / "config.json").write_text("{}")
    convert_checkpoint(source / "weights.safetensors", tmp_path / "b", format="bin", max_shard_size=1)
    assert same(read(tmp_path / "b"), MIXED)
    assert "config.json" not in names(tmp_path / "b")
    index = next((tmp_path / "b").glob("*.index.json"))
    convert_checkpoint(index, tmp_path / "c")
    assert same(read(tmp_path / "c"), MIXED)


def test_report_describes_the_conversion(tmp_path: Path) -> None:
    saved(tmp_path / "a")
    read_so_far: list[tuple[int, int]] = []
    written: list[tuple[int, int]] = []
    convert_checkpoint(
        tmp_path / "a",
        tmp_path / "b",
        verify_checksums=True,
        on_verify=lambda *step: read_so_far.append(step),
        on_progress=lambda *step: written.append(step),
    )
    assert read_so_far[-1][0] == read_so_far[-1][1] > 0
    assert written[-1][0] == written[-1][1] == sum(tensor.nbytes for tensor in MIXED.values())


# --- dtype -----------------------------------------------------------------------------------------------------------


@FORMATS
@pytest.mark.parametrize("dtype", ["float32", "float16", "torch.float64", "FP32"])
def test_only_the_main_dtype_changes(tmp_path: Path, dtype: str, form: str) -> None:
    saved(tmp_path / "a", form=form)
    made = convert_checkpoint(tmp_path / "a", tmp_path / "b", dtype=dtype)
    new = {"float32": torch.float32, "float16": torch.float16, "torch.float64": torch.float64}.get(dtype, torch.float32)
    expected = {name: t.to(new) if t.dtype == torch.bfloat16 else t for name, t in MIXED.items()}
    assert same(read(tmp_path / "b"), expected)
    (note,) = [note for note in made.notes if "dtype kept: " in note]
    assert "eighth" in note
    assert ("layers.0.gain" in note) == (new != torch.float32)
    assert "steps" not in note
    assert "mask" not in note


def test_no_note_if_no_dtype_is_kept(tmp_path: Path) -> None:
    saved(tmp_path / "a", {"weight": torch.randn(4, 4), "steps": torch.tensor(3)})
    assert convert_checkpoint(tmp_path / "a", tmp_path / "b", dtype="bf16").notes == ()
    assert {t.dtype for t in read(tmp_path / "b").values()} == {torch.bfloat16, torch.int64}
    assert convert_checkpoint(tmp_path / "b", tmp_path / "c", dtype="bfloat16").notes == ()
    assert same(read(tmp_path / "b"), read(tmp_path / "c"))


def test_keep_pattern_preserves_dtypes(tmp_path: Path) -> None:
    tensors = {name: torch.randn(3) for name in ("a.norm.weight", "a.proj.weight", "b.norm.bias", "head")}
    saved(tmp_path / "a", tensors)
    made = convert_checkpoint(tmp_path / "a", tmp_path / "b", dtype="bfloat16", keep=r"norm|^head$")
    kept = {name for name, tensor in read(tmp_path / "b").items() if tensor.dtype == torch.float32}
    assert kept == {"a.norm.weight", "b.norm.bias", "head"}
    assert made.notes == ("dtype kept: a.norm.weight, b.norm.bias, head",)


def test_values_are_rounded_like_torch(tmp_path: Path) -> None:
    values = torch.randn(5000) * 10 ** torch.randint(-6, 5, (5000,))
    saved(tmp_path / "a", {"weight": values})
    for dtype in ("bfloat16", "float16"):
        convert_checkpoint(tmp_path / "a", tmp_path / dtype, dtype=dtype, format="bin")
        assert same(read(tmp_path / dtype), {"weight": values.to(getattr(torch, dtype))})


def test_float16_overflow_is_noted(tmp_path: Path) -> None:
    saved(tmp_path / "a", {"small": torch.ones(3), "large": torch.tensor([1.0, 1e30])})
    made = convert_checkpoint(tmp_path / "a", tmp_path / "b", dtype="float16")
    assert made.notes == ("1 tensor was saved with NaN or Inf: large",)
    assert convert_checkpoint(tmp_path / "a", tmp_path / "c", dtype="bfloat16").notes == ()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dtype": "bfloat61"}, "--dtype must be one of .*bfloat16.*; got 'bfloat61'"),
        ({"dtype": "int8"}, "--dtype must be one of .*; got 'int8'"),
        ({"format": "safetensor"}, "--format must be one of safetensors, bin; got 'safetensor'. Did you mean"),
        ({"dtype": "bfloat16", "keep": "norm("}, r"--keep: 'norm\(' is not a valid regular expression"),
        ({"keep": "norm"}, "--keep .*--dtype"),
        ({"max_shard_size": "five"}, "--max-shard-size must be a positive size; got 'five'"),
    ],
    ids=["dtype", "integers", "format", "pattern", "keep alone", "size"],
)
def test_invalid_options_are_refused_in_one_line(tmp_path: Path, options: dict[str, str], message: str) -> None:
    saved(tmp_path / "a")
    with pytest.raises(ForgatherError, match=message) as caught:
        convert_checkpoint(tmp_path / "a", tmp_path / "b", **options)  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)
    assert names(tmp_path) == ["a"]


@pytest.mark.parametrize("size", [0, -1])
def test_invalid_size_is_refused(tmp_path: Path, size: int) -> None:
    saved(tmp_path / "a")
    with pytest.raises(ForgatherError, match="size"):
        convert_checkpoint(tmp_path / "a", tmp_path / "b", max_shard_size=size)
    assert names(tmp_path) == ["a"]


# --- what lies beside the weights ------------------------------------------------------------------------------------


@pytest.mark.regression("P11")
def test_other_files_and_directories_without_weights_are_copied(tmp_path: Path) -> None:
    source = saved(tmp_path / "a")
    mine = {
        "tokenizer.json": "{}",
        "model-notes.txt": "mine",
        ".hidden": "too",
        "additional_chat_templates/rag.jinja": "{{ messages }}",
        "runs/2026/log.txt": "log",
    }
    for name, text in mine.items():
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_text(text)
    saved(source / "checkpoints" / "checkpoint-1")
    (source / ".git").mkdir()
    (source / ".git" / "HEAD").touch()
    (source / "elsewhere").symlink_to(tmp_path)
    (source / "runs" / "loop").symlink_to(source)
    (source / "runs" / "link").symlink_to(source / "model-notes.txt")
    os.mkfifo(source / "runs" / "pipe")
    made = convert_checkpoint(source, source / "in" / "here", format="bin")
    (note,) = [note for note in made.notes if "not copied" in note]
    assert note.endswith(".git (hidden), checkpoints (contains weights), elsewhere (a link)")
    found = {file.relative_to(made.path).as_posix(): file for file in made.path.rglob("*") if file.is_file()}
    others = {name: file.read_text() for name, file in found.items() if not name.startswith("pytorch_model")}
    assert others == mine | {"runs/link": "mine"}
    assert all((source / name).stat().st_ino != found[name].stat().st_ino for name in mine)
    assert not any(path.is_symlink() for path in made.path.rglob("*"))
    convert_checkpoint(source, source, format="bin")  # in place, all files are kept
    assert (source / "elsewhere").is_symlink() and (source / ".git" / "HEAD").is_file()
    assert all((source / name).read_text() == text for name, text in mine.items())


def test_templates_in_a_linked_directory_are_copied(tmp_path: Path) -> None:
    source, shared = saved(tmp_path / "a"), tmp_path / "shared"
    shared.mkdir()
    (shared / "rag.jinja").write_text("rag")
    (source / "additional_chat_templates").symlink_to(shared)
    made = convert_checkpoint(source, tmp_path / "b")
    assert not any("not copied" in note for note in made.notes)
    assert (made.path / "additional_chat_templates" / "rag.jinja").read_text() == "rag"


def test_a_file_that_is_a_link_is_copied_as_a_file(tmp_path: Path) -> None:
    source = saved(tmp_path / "a")
    (tmp_path / "shared.json").write_text("[1]")
    (source / "tokenizer.json").symlink_to("../shared.json")
    convert_checkpoint(source, tmp_path / "deep" / "er" / "b")
    copied = tmp_path / "deep" / "er" / "b" / "tokenizer.json"
    assert copied.read_text() == "[1]"
    assert not copied.is_symlink()


@pytest.mark.parametrize("key", ["dtype", "torch_dtype"])
def test_a_configuration_that_names_another_dtype_is_corrected(tmp_path: Path, key: str) -> None:
    source = saved(tmp_path / "a", {"weight": torch.randn(4)})
    text = json.dumps({"model_type": "x", key: "float32", "é": [1]})
    (source / "config.json").write_text(text)
    convert_checkpoint(source, tmp_path / "b", dtype="bfloat16")
    assert json.loads((tmp_path / "b" / "config.json").read_text()) == {"model_type": "x", key: "bfloat16", "é": [1]}
    assert (source / "config.json").read_text() == text
    convert_checkpoint(source, tmp_path / "c", format="bin")
    assert (tmp_path / "c" / "config.json").read_text() == text


@pytest.mark.parametrize("text", ["{}", '{"model_type": "x"}', "[1, 2]", "no JSON", ""])
def test_a_configuration_that_names_no_dtype_is_copied_as_it_is(tmp_path: Path, text: str) -> None:
    source = saved(tmp_path / "a")
    (source / "config.json").write_text(text)
    convert_checkpoint(source, tmp_path / "b", dtype="float32")
    assert (tmp_path / "b" / "config.json").read_text() == text


@FORMATS
@pytest.mark.parametrize("dtype", [None, "bfloat16", "float16"])
def test_transformers_loads_the_result_in_its_dtype(tmp_path: Path, dtype: str | None, form: str) -> None:
    model = llama()
    model.save_pretrained(tmp_path / "a")
    convert_checkpoint(tmp_path / "a", tmp_path / "b", dtype=dtype, format=form, max_shard_size="3KB")
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "b")
    expected = getattr(torch, dtype or "float32")
    assert {p.dtype for p in loaded.parameters()} == {expected}
    assert same(loaded.state_dict(), {name: t.to(expected) for name, t in model.state_dict().items()})
    assert "generation_config.json" in names(tmp_path / "b")


def test_tied_names_that_share_their_values_are_both_written(tmp_path: Path) -> None:
    model, source = llama(tied=True), tmp_path / "a"
    model.config.save_pretrained(source)
    torch.save(model.state_dict(), source / "pytorch_model.bin")
    made = convert_checkpoint(source, tmp_path / "b", format="safetensors", dtype="bfloat16")
    (note,) = made.notes
    assert "'lm_head.weight'" in note
    assert "'model.embed_tokens.weight'" in note
    tensors = read(tmp_path / "b")
    assert same(tensors, {name: tensor.bfloat16() for name, tensor in model.state_dict().items()})
    assert torch.equal(tensors["lm_head.weight"], tensors["model.embed_tokens.weight"])
    load_checkpoint(tmp_path / "b", llama(tied=True), strict=True)
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "b").dtype == torch.bfloat16


# --- the target ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["full", "file", "link to nowhere", "link to a full one"])
def test_existing_target_is_refused(tmp_path: Path, kind: str) -> None:
    source, target = saved(tmp_path / "a"), tmp_path / "b"
    if kind == "full":
        target.mkdir()
        (target / "mine.txt").write_text("mine")
    elif kind == "file":
        target.write_text("mine")
    elif kind == "link to nowhere":
        target.symlink_to(tmp_path / "nowhere")
    else:
        saved(tmp_path / "c", {"x": torch.ones(1)})
        target.symlink_to(tmp_path / "c")
    before = names(tmp_path)
    with pytest.raises(ForgatherError, match="already exists"):
        convert_checkpoint(source, target)
    assert names(tmp_path) == before
    if kind == "full":
        assert names(target) == ["mine.txt"]
    elif kind == "file":
        assert target.read_text() == "mine"


def test_empty_or_missing_directory_is_a_valid_target(tmp_path: Path) -> None:
    source = saved(tmp_path / "a")
    (tmp_path / "b").mkdir()
    convert_checkpoint(source, tmp_path / "b")
    assert same(read(tmp_path / "b"), MIXED)
    convert_checkpoint(source, tmp_path / "x" / "y" / "z")
    assert same(read(tmp_path / "x" / "y" / "z"), MIXED)
    assert names(tmp_path) == ["a", "b", "x"]


def test_the_target_may_lie_within_the_source(tmp_path: Path) -> None:
    source = saved(tmp_path / "a")
    convert_checkpoint(source, source / "float32", dtype="float32")
    assert same(read(source), MIXED)
    assert read(source / "float32")["embed.weight"].dtype == torch.float32


@FORMATS
@pytest.mark.parametrize("to", ["safetensors", "bin"])
@pytest.mark.parametrize("dtype", [None, "float32"])
def test_in_place(tmp_path: Path, form: str, to: str, dtype: str | None) -> None:
    place = saved(tmp_path / "a", form=form, limit="200B")
    (place / "config.json").write_text('{"dtype": "bfloat16"}')
    (place / "mine.txt").write_text("mine")
    saved(place / "checkpoints" / "checkpoint-1")
    made = convert_checkpoint(place, place, format=to, dtype=dtype)
    expected = {n: t.float() if dtype and t.dtype == torch.bfloat16 else t for n, t in MIXED.items()}
    assert same(read(place), expected)
    assert names(place) == sorted(["checkpoints", "config.json", "mine.txt", *made.files])
    assert (place / "mine.txt").read_text() == "mine"
    assert same(read(place / "checkpoints" / "checkpoint-1"), MIXED)
    assert json.loads((place / "config.json").read_text()) == {"dtype": dtype or "bfloat16"}
    assert names(tmp_path) == ["a"]


@pytest.mark.parametrize("how", ["relative", "link", "its file"])
def test_in_place_by_another_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str) -> None:
    place = tmp_path / "a"
    place.mkdir()
    save_file(MIXED, place / "model.safetensors")
    (tmp_path / "alias").symlink_to(place)
    monkeypatch.chdir(tmp_path)
    source, target = {
        "relative": (place, Path("a")),
        "link": (place, tmp_path / "alias"),
        "its file": (place / "model.safetensors", place),
    }[how]
    convert_checkpoint(source, target, format="bin", dtype="float32")
    assert read(place)["embed.weight"].dtype == torch.float32
    assert names(place) == ["pytorch_model.bin"]
    assert names(tmp_path) == ["a", "alias"]
    assert (tmp_path / "alias").is_symlink()


def test_links_converted_in_place_leave_their_targets_unchanged(tmp_path: Path) -> None:
    step = saved(tmp_path / "a" / "checkpoints" / "checkpoint-1")
    link_checkpoint(tmp_path / "a")
    convert_checkpoint(tmp_path / "a", tmp_path / "a", dtype="float32")
    assert not any(entry.is_symlink() for entry in (tmp_path / "a").iterdir())
    assert read(tmp_path / "a")["embed.weight"].dtype == torch.float32
    assert same(read(step), MIXED)


# --- what fails ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("damage", ["truncated", "a shard less", "no index", "changed"])
def test_a_damaged_source_gives_no_target(tmp_path: Path, damage: str) -> None:
    source = saved(tmp_path / "a", limit="200B")
    shard = sorted(source.glob("*.safetensors"))[0]
    data = bytearray(shard.read_bytes())
    if damage == "truncated":
        shard.write_bytes(data[:-1])
    elif damage == "a shard less":
        shard.unlink()
    elif damage == "no index":
        next(source.glob("*.index.json")).write_text("{")
    else:
        data[-1] ^= 1
        shard.write_bytes(data)
    with pytest.raises(ForgatherError, match=r"index\.json" if damage == "no index" else shard.name) as caught:
        convert_checkpoint(source, tmp_path / "b" / "c", format="bin", verify_checksums=True)
    assert "\n" not in str(caught.value)
    assert names(tmp_path) == ["a"]


def test_missing_source(tmp_path: Path) -> None:
    with pytest.raises(ForgatherError, match="nowhere does not exist"):
        convert_checkpoint(tmp_path / "nowhere", tmp_path / "b")
    assert names(tmp_path) == []


@pytest.mark.parametrize("at", [1, 2])
@pytest.mark.parametrize("to", ["safetensors", "bin"])
def test_a_disk_that_fails_leaves_nothing_beside_the_source(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, to: str, at: int
) -> None:
    source, calls = saved(tmp_path / "a"), 0

    def failing(descriptor: int) -> None:
        nonlocal calls
        calls += 1
        if calls == at:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr("forgather_core.checkpoint.write.weight_stream.sync_file", failing)
    for target in (tmp_path / "b", tmp_path / "a"):
        calls, before = 0, names(source)
        with pytest.raises(ForgatherError, match="No space left") as caught:
            convert_checkpoint(source, target, format=to, max_shard_size="200B")
        assert "\n" not in str(caught.value)
        assert names(tmp_path) == ["a"]
        assert names(source) == before
        assert same(read(source), MIXED)


def test_a_companion_that_cannot_be_copied_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = saved(tmp_path / "a")
    (source / "tokenizer.json").write_text("{}")

    def failing(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(shutil, "copy2", failing)
    with pytest.raises(ForgatherError, match="No space left"):
        convert_checkpoint(source, tmp_path / "b")
    assert names(tmp_path) == ["a"]
