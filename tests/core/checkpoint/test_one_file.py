"""A single-file checkpoint is one file, as transformers writes it, with an embedded manifest."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from forgather_core.checkpoint import inspect_checkpoint, link_checkpoint, load_checkpoint, save_checkpoint
from forgather_core.errors import CheckpointError

FORMATS = pytest.mark.parametrize("safetensors", [True, False], ids=["safetensors", "bin"])


def llama(seed: int = 0) -> Any:
    torch.manual_seed(seed)
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_attention_heads": 2, "num_hidden_layers": 1}
    return LlamaForCausalLM(LlamaConfig(vocab_size=32, tie_word_embeddings=True, **sizes))


def weights(directory: Path) -> list[str]:
    return sorted(file.name for file in directory.iterdir() if "model" in file.name)


def single(safetensors: bool) -> str:
    return "model.safetensors" if safetensors else "pytorch_model.bin"


def holds(directory: Path, seed: int) -> bool:
    """Return whether both loaders load the model of a seed."""
    ours, theirs = llama(99), AutoModelForCausalLM.from_pretrained(directory)
    load_checkpoint(directory, ours, strict=True)
    expected = llama(seed).state_dict()
    return all(torch.equal(expected[n], m.state_dict()[n]) for m in (ours, theirs) for n in expected)


@pytest.mark.regression("E7")
@FORMATS
def test_save_pretrained_into_a_saved_directory_leaves_no_stale_index(tmp_path: Path, safetensors: bool) -> None:
    report = save_checkpoint(tmp_path, llama(1), safetensors=safetensors)
    assert weights(tmp_path) == list(report.files) == [single(safetensors)]
    assert holds(tmp_path, 1)
    llama(2).save_pretrained(tmp_path)
    assert not list(tmp_path.glob("*.index.json"))
    assert holds(tmp_path, 2)


@FORMATS
@pytest.mark.parametrize(
    "old", [{"safetensors": True}, {}, {"safetensors": True, "max_shard_size": 2000}, {"max_shard_size": 2000}], ids=str
)
@pytest.mark.parametrize("limit", ["5GB", "2KB"])
def test_save_over_another_format_leaves_no_old_files(
    tmp_path: Path, safetensors: bool, old: dict[str, Any], limit: str
) -> None:
    save_checkpoint(tmp_path, llama(1), **old)
    report = save_checkpoint(tmp_path, llama(2), safetensors=safetensors, max_shard_size=limit)
    assert weights(tmp_path) == sorted(report.files)
    assert (len(report.files) == 1) == (limit == "5GB")
    assert holds(tmp_path, 2)
    assert load_checkpoint(tmp_path, llama(3), verify_checksums=True).unverified == ()


@FORMATS
def test_one_shard_with_an_index_as_earlier_releases_wrote_it(tmp_path: Path, safetensors: bool) -> None:
    save_checkpoint(tmp_path, llama(1), safetensors=safetensors)
    stem, _, suffix = single(safetensors).partition(".")
    shard = f"{stem}-00001-of-00001.{suffix}"
    if safetensors:
        save_file(load_file(tmp_path / single(True)), tmp_path / shard, metadata={"format": "pt"})
    else:
        torch.save(torch.load(tmp_path / single(False)), tmp_path / shard)
    (tmp_path / single(safetensors)).unlink()
    content = {"metadata": {}, "weight_map": dict.fromkeys(list(llama().state_dict())[:1], shard)}
    (tmp_path / f"{single(safetensors)}.index.json").write_text(json.dumps(content))
    assert holds(tmp_path, 1)
    save_checkpoint(tmp_path, llama(2), safetensors=safetensors)
    assert weights(tmp_path) == [single(safetensors)]
    assert holds(tmp_path, 2)


@FORMATS
def test_any_changed_byte_is_detected(tmp_path: Path, safetensors: bool) -> None:
    save_checkpoint(tmp_path, nn.Linear(2, 2), safetensors=safetensors)
    file = tmp_path / single(safetensors)
    data = file.read_bytes()
    assert inspect_checkpoint(tmp_path, verify_checksums=True)["files"][0]["verified"] is True
    unseen = []
    for at in range(len(data)):
        file.write_bytes(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])
        try:
            unseen += [at] if inspect_checkpoint(tmp_path, verify_checksums=True)["files"][0]["verified"] else []
        except CheckpointError:
            continue
    assert unseen == []  # damage to the manifest itself leaves the file unverified, which is reported


@pytest.mark.parametrize("count", [1, 3, 4, 5, 9])
@FORMATS
def test_nan_of_any_tensor_is_recorded(tmp_path: Path, safetensors: bool, count: int) -> None:
    model = nn.ParameterList([nn.Parameter(torch.zeros(2)) for _ in range(count)])
    bad = range(0, count, 2)
    for number in bad:
        model[number].data[1] = torch.nan
    save_checkpoint(tmp_path, model, safetensors=safetensors)
    (note,) = inspect_checkpoint(tmp_path)["notes"]
    names = ", ".join(str(number) for number in list(bad)[:3])
    assert note.startswith(f"contained NaN or Inf when saved: {names}")


@FORMATS
def test_renamed_or_moved_file_can_be_verified(tmp_path: Path, safetensors: bool) -> None:
    save_checkpoint(tmp_path / "a", nn.Linear(2, 2), safetensors=safetensors)
    other = tmp_path / f"other.{single(safetensors).partition('.')[2]}"
    shutil.copy(tmp_path / "a" / single(safetensors), other)
    assert inspect_checkpoint(other, verify_checksums=True)["files"][0]["verified"] is True


def test_many_tensors_fit_the_comment_of_a_bin_file(tmp_path: Path) -> None:
    """torch's reader fails on some archives with a longer comment."""
    model = nn.ParameterList([nn.Parameter(torch.zeros(1)) for _ in range(20)])
    for limit in (0, 400, 4000):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("forgather_core.checkpoint.write.write.COMMENT_LIMIT", limit)
            save_checkpoint(tmp_path, model)
        for how in ({}, {"mmap": True}):
            assert len(torch.load(tmp_path / "pytorch_model.bin", **how)) == 20
        assert load_checkpoint(tmp_path, model, verify_checksums=True).verified == ("pytorch_model.bin",)


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "7", '{"forgather_version": 1, "non_finite": 3, "checksums": []}', "\ud800"]
)
def test_manifest_with_any_content(tmp_path: Path, text: str) -> None:
    from forgather_core.checkpoint.formats.embedded import read_manifest

    found = read_manifest(text, "model.safetensors", ["weight"])
    assert found is None or (found.files == ["model.safetensors"] and not any(found.checksums.values()))


def test_links_to_one_file_have_an_index_and_save_pretrained_does_not_write_through_them(tmp_path: Path) -> None:
    model = llama(1)
    model.config.save_pretrained(tmp_path)
    step = tmp_path / "checkpoints" / "checkpoint-1"
    save_checkpoint(step, model, safetensors=True)
    link_checkpoint(tmp_path)
    assert load_checkpoint(tmp_path, llama(2), verify_checksums=True, strict=True).unverified == ()
    llama(3).save_pretrained(tmp_path)
    assert holds(step, 1)


def test_metadata_is_what_transformers_expects(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, llama(), safetensors=True)
    with safe_open(tmp_path / "model.safetensors", "pt") as opened:
        metadata = opened.metadata()
    assert metadata["format"] == "pt"
    assert json.loads(metadata["forgather"])["dtype"] == "float32"


# --- reports ---------------------------------------------------------------------------------------------------------


@pytest.mark.regression("P7-counts")
def test_tied_tensors_count_once_in_load_and_save_reports(tmp_path: Path) -> None:
    saved = save_checkpoint(tmp_path, llama(), safetensors=True)
    report = load_checkpoint(tmp_path, llama(1))
    assert report.to_dict()["loaded"] == saved.tensors == len(llama().state_dict()) - 1


@pytest.mark.regression("E12-repr")
@FORMATS
def test_reports_are_short_in_a_notebook(tmp_path: Path, safetensors: bool) -> None:
    model = llama()
    saved = save_checkpoint(tmp_path / ("x" * 200), model, safetensors=safetensors, max_shard_size=1)
    loaded = load_checkpoint(tmp_path / ("x" * 200), model)
    for report in (saved, loaded):
        assert len(repr(report)) < 300
        assert "\n" not in repr(report)
        assert repr(report).startswith(f"{type(report).__name__}(path='")
    assert f"tensors={saved.tensors}" in repr(saved)
