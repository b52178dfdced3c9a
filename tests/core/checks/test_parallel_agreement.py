"""parallel-agreement passes for correct models, and finds planted mistakes of parallel code."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import forgather
from forgather_core.checks import CHECKS, choose, verify
from forgather_core.checks.shared import mesh_run
from forgather_core.checks.shared.scope import Scope
from forgather_core.errors import BuildError, CheckError, ConfigurationError

PIECES = "weight_pieces.py"
OFFSET = "box[placement.dim] = (offset + first, min(chunk, size - first))"
# Name: definition, mesh, replacements in files of the model directory, and words of the failure.
IN_THE_MODEL: dict[str, tuple[str, str, dict[str, tuple[str, str]], str]] = {
    "identical shards": (
        "llama", "fsdp=2", {PIECES: (OFFSET, "box[placement.dim] = (offset, min(chunk, size - first))")},
        "initial weights on process 1",
    ),
    "offsets of an inner axis lost": (
        "llama", "fsdp=2,tp=2", {PIECES: (OFFSET, "box[placement.dim] = (first, min(chunk, size - first))")},
        "initial weights on process",
    ),
    "gradient of head norms not summed": (
        "qwen3", "tp=2", {"parallel_plans.py": ('"replicated_with_grad_allreduce"', '"replicate"')},
        "gradients on process",
    ),
    "another style": (
        "llama", "tp=2", {"parallel_plans.py": ('mlp.down_proj": "rowwise"', 'mlp.down_proj": "colwise"')},
        "tp=2: process",
    ),
    "logits not gathered": (
        "llama", "tp=2", {"language_model.py": ('"colwise_gather_output"', '"colwise"')}, "process",
    ),
    "head norms not in the plan": (
        "qwen3", "tp=2", {"parallel_plans.py": ('"layers.*.self_attn.k_norm": "replicated_with_grad_allreduce",', "")},
        "gradients on process",
    ),
    "slopes not in the plan": (
        "deepone", "tp=2", {"parallel_plans.py": ('{"layers.*.self_attn.alibi": "colwise"}', "{}")}, "tp=2: process",
    ),
    "input of a rowwise layer not split": (
        "llama", "tp=2", {"parallel_plans.py": ('"layers.*.mlp.up_proj": "colwise", ', "")}, "tp=2: process",
    ),
    "RoPE table filled before to_empty": (
        "llama", "fsdp=2",
        {"computed_buffers.py": ("self.reset_buffers()", "pass"), "table_init.py": ("module.reset_buffers()", "pass")},
        "initial weights and buffers of plain FSDP2 on process",
    ),
}  # fmt: skip
# Name of a function in tests/mutants/mesh_mistakes.py: definition, mesh, words of the failure.
IN_THE_PROCESSES: dict[str, tuple[str, str, str]] = {
    "loss_of_each_process": ("llama", "fsdp=2", "is not the mean over the targets of all processes"),
    "mean_of_all_positions": ("llama", "tp=2", "is not the mean over the targets of all processes"),
    "gradients_not_reduced": ("llama", "ddp=2", "gradients on process"),
    "gradients_of_the_mean": ("llama", "fsdp=2", "gradients on process"),
    "tied_weights_apart": ("single_head", "tp=2", "tied weights on process 0 are one parameter"),
    "stale_buffer": ("llama", "fsdp=2", "the buffers on process 1 differ"),
    "labels_of_other_rows": ("llama", "fsdp=2", "gradients on process"),
    "rows_of_another_process": ("llama", "ddp=2", "logits on process 0"),
    "the_same_rows": ("llama", "ddp=2", "logits on process 1"),
    "loss_summed_over_copies": ("llama", "tp=2", "is not the mean over the targets of all processes"),
    "slopes_of_other_heads": ("deepone", "tp=2", "logits on process"),
    "one_process_does_not_step": ("llama", "ddp=2", "weights after a step of AdamW on process 1"),
    "file_lost_from_the_index": ("llama", "fsdp=2", "a saved checkpoint has the weights of the processes"),
    "bias_of_each_process": ("causal_lm", "tp=2", "logits on process"),
    "norm_of_a_part": ("llama", "fsdp=2", "gradient norm on process"),
    "a_process_dies": ("llama", "fsdp=2", "process 1 ended with exit code 3, without an error"),
    "a_process_raises": ("llama", "fsdp=2", "process 1: ValueError: planted"),
}
OPTIONS: dict[str, Any] = {"num_attention_heads": 4}


def constructed(name: str, place: Path) -> Path:
    heads = {} if name == "single_head" else OPTIONS
    groups = {"num_key_value_heads": 2} if name in {"llama", "mistral", "qwen3"} else {}
    tied = {"tie_word_embeddings": True} if name == "single_head" else {}
    forgather.construct(name, output_dir=place / name, hidden_size=32, num_hidden_layers=2, **heads, **groups, **tied)
    return place / name


def row_of(directory: Path, mesh: str | None, seed: int = 0) -> dict[str, Any]:
    (row,) = verify(directory, choose(CHECKS, ["parallel-agreement"]), seed=seed, scope=Scope(parallel=mesh))["checks"]
    return row


def failures(row: dict[str, Any]) -> str:
    return " ".join(f"{one['what']} {one['failure']}" for one in row["measured"] if not one["holds"])


def test_it_is_skipped_without_a_mesh(tmp_path: Path) -> None:
    row = row_of(constructed("llama", tmp_path), None)
    assert row["result"] == "skipped"
    assert row["reason"] == "requires --parallel"


def test_a_split_that_the_model_cannot_have_is_refused(tmp_path: Path) -> None:
    directory = constructed("llama", tmp_path)
    with pytest.raises(BuildError, match="tp=3 cannot split 4 heads: use tp=1 or tp=2"):
        row_of(directory, "tp=3")


def test_a_split_that_the_copy_cannot_have_is_a_reason(tmp_path: Path) -> None:
    place = tmp_path / "wide"
    forgather.construct("llama", output_dir=place, num_attention_heads=8, num_key_value_heads=8, num_hidden_layers=1)
    row = row_of(place, "tp=8")
    assert row["result"] == "skipped"
    assert "the small copy is too small: tp=8 cannot split" in row["reason"]
    assert row["reason"].endswith("; add --full")


def test_options_without_effect_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckError, match="parallel has no effect without the check parallel-agreement"):
        forgather.verify(constructed("llama", tmp_path), checks="causality", parallel="fsdp=2")
    with pytest.raises(ConfigurationError, match="must give the number of processes of fsdp"):
        forgather.verify("llama", parallel="fsdp", checks="parallel-agreement")


@pytest.mark.few(1, slow=3)
@pytest.mark.parametrize("mesh", ["fsdp=2", "tp=2", "ddp=2"])
@pytest.mark.parametrize("name", ["llama", "deepone", "single_head", "causal_lm", "mistral", "qwen3"])
def test_the_definitions_agree(name: str, mesh: str, tmp_path: Path) -> None:
    row = row_of(constructed(name, tmp_path), mesh)
    assert row["result"] == "passed", failures(row)


@pytest.mark.few(0, slow=2)
@pytest.mark.parametrize("name", ["llama", "deepone", "single_head", "causal_lm", "mistral", "qwen3"])
def test_the_definitions_agree_over_four_processes(name: str, tmp_path: Path) -> None:
    row = row_of(constructed(name, tmp_path), "fsdp=2,tp=2")
    assert row["result"] == "passed", failures(row)


@pytest.mark.few(0, slow=1)
@pytest.mark.parametrize("seed", [1, 2, 3])
@pytest.mark.parametrize("name", ["llama", "qwen3"])
def test_the_definitions_agree_with_other_seeds(name: str, seed: int, tmp_path: Path) -> None:
    row = row_of(constructed(name, tmp_path), "fsdp=2,tp=2", seed)
    assert row["result"] == "passed", failures(row)


def test_it_is_refused_in_processes_of_a_launcher(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    directory = constructed("llama", tmp_path)
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    for mesh in ("fsdp=2", None):
        with pytest.raises(CheckError, match="starts the processes of parallel itself: run it without torchrun"):
            forgather.verify(directory, parallel=mesh)


@pytest.mark.slow
def test_processes_that_hang_are_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mesh_run, "MODULE", "tests.mutants.mesh_mistakes")
    monkeypatch.setattr(mesh_run, "_SECONDS", 60)
    monkeypatch.setenv("MESH_MISTAKE", "a_process_hangs")
    row = row_of(constructed("llama", tmp_path), "fsdp=2")
    assert row["result"] == "failed"
    assert "2 processes have not ended after 60 s: they wait for each other" in failures(row)


@pytest.mark.few(1, slow=3)
@pytest.mark.parametrize("mistake", IN_THE_MODEL)
def test_mistakes_in_the_model_are_found(mistake: str, tmp_path: Path) -> None:
    name, mesh, replacements, words = IN_THE_MODEL[mistake]
    directory = constructed(name, tmp_path)
    for file, (old, new) in replacements.items():
        text = (directory / file).read_text()
        assert old in text
        (directory / file).write_text(text.replace(old, new))
    row = row_of(directory, mesh)
    assert row["result"] == "failed"
    assert words in failures(row)


@pytest.mark.few(2, slow=5)
@pytest.mark.parametrize("mistake", IN_THE_PROCESSES)
def test_mistakes_of_the_processes_are_found(mistake: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name, mesh, words = IN_THE_PROCESSES[mistake]
    monkeypatch.setattr(mesh_run, "MODULE", "tests.mutants.mesh_mistakes")
    monkeypatch.setenv("MESH_MISTAKE", mistake)
    row = row_of(constructed(name, tmp_path), mesh)
    assert row["result"] == "failed"
    assert words in failures(row)


@pytest.mark.slow
def test_a_seed_of_each_process_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    directory = constructed("llama", tmp_path)
    text = (directory / PIECES).read_text()
    shared = "seed = _shared_seed(draw_seed() if seed is None else seed, fills)"
    assert shared in text
    (directory / PIECES).write_text(text.replace(shared, "seed = draw_seed() if seed is None else seed"))
    monkeypatch.setattr(mesh_run, "MODULE", "tests.mutants.mesh_mistakes")
    monkeypatch.setenv("MESH_MISTAKE", "seed_per_process")
    row = row_of(directory, "fsdp=2")
    assert "initial weights on process 1" in failures(row)
