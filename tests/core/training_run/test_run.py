"""A training run: report, checkpoints, interruption, and what stops it."""

from __future__ import annotations

import errno
import json
import math
import shutil
from collections import namedtuple
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from forgather_core.checkpoint import find_latest_checkpoint
from forgather_core.data.corpus import HASH_BITS, document_hash
from forgather_core.errors import (
    BuildError,
    CheckpointError,
    DataError,
    DirectoryError,
    ForgatherError,
    TrainingError,
)
from forgather_core.training_run import cost, trainer
from forgather_core.training_run.random_parts import POSITION
from forgather_core.training_run.record import RECORD
from forgather_core.training_run.run import TrainingCallbacks
from forgather_core.training_run.watch import TrainingRecord

from .conftest import Train


class Stop(Exception):  # noqa: N818 - not an error
    """Ends a run, as a signal does."""


def stopping_at(step: int) -> TrainingCallbacks:
    def stop(record: TrainingRecord) -> None:
        if record.step == step:
            raise Stop

    return TrainingCallbacks(record=stop)


def test_a_finished_run_is_a_model_directory(train: Train, tmp_path: Path) -> None:
    begun: list[dict[str, Any]] = []
    records: list[TrainingRecord] = []
    evaluations: list[tuple[int, dict[str, float]]] = []
    callbacks = TrainingCallbacks(
        begin=lambda report: begun.append(json.loads(json.dumps(report))),
        record=records.append,
        evaluation=lambda step, metrics: evaluations.append((step, metrics)),
    )
    report = train(callbacks=callbacks, lr=3e-3, eval_every=6)
    assert [record.step for record in records] == list(range(1, 13))
    assert report["steps"] == [record.to_dict() for record in records]
    assert records[-1].loss < records[0].loss - 0.3
    assert records[-1].tokens == 12 * 4 * 32
    assert [step for step, _ in evaluations] == [6, 12]
    assert report["final"]["loss"] == report["evaluations"][-1]["loss"] == evaluations[-1][1]["loss"]
    assert begun[0]["steps"] == []
    assert begun[0]["cost"]["disk"] > 0
    assert len(report["samples"]) == 3
    assert json.loads((tmp_path / "out" / RECORD).read_text()) == json.loads(json.dumps(report))
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "out", trust_remote_code=True)
    last = AutoModelForCausalLM.from_pretrained(find_latest_checkpoint(tmp_path / "out"), trust_remote_code=True)
    ids = torch.arange(30, 60)[None]
    assert torch.equal(model(ids).logits, last(ids).logits)


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_an_interrupted_run_ends_with_equal_weights(optimizer: str, train: Train, tmp_path: Path) -> None:
    """Dropout, accumulation, evaluations between checkpoints, and two interruptions."""
    options: dict[str, Any] = {
        "model": {"attention_dropout": 0.2},
        "optimizer": optimizer,
        "gradient_accumulation_steps": 2,
        "tokens": "2304",
        "save_every": 2,
        "eval_every": 3,
        "schedule": "wsd",
    }
    train("whole", **options)
    for step in (3, 6):
        with pytest.raises(Stop):
            train("parts", callbacks=stopping_at(step), resume=True, **options)
    report = train("parts", resume=True, **options)
    assert report["setup"]["continued_from"].endswith("checkpoint-4")
    whole, parts = (load_file(tmp_path / name / "model.safetensors") for name in ("whole", "parts"))
    assert all(torch.equal(whole[name], parts[name]) for name in whole)


@pytest.mark.slow
def test_the_report_of_a_continued_run_has_the_steps_before(train: Train) -> None:
    with pytest.raises(Stop):
        train(callbacks=stopping_at(8), resume=True, save_every=3, eval_every=3)
    report = train(resume=True, save_every=3, eval_every=3)
    assert [step["step"] for step in report["steps"]] == list(range(1, 13))
    assert [one["step"] for one in report["evaluations"]] == [3, 6, 9, 12]


@pytest.mark.slow
def test_a_run_that_ended_before_its_record_takes_no_more_steps(train: Train, tmp_path: Path) -> None:
    whole = train()
    weights = load_file(tmp_path / "out" / "model.safetensors")
    record = json.loads((tmp_path / "out" / RECORD).read_text())
    (tmp_path / "out" / RECORD).write_text(json.dumps(record | {"final": None}))
    (tmp_path / "out" / "model.safetensors").unlink()
    again = train(resume=True)
    assert again["steps"] == whole["steps"]
    assert again["final"]["loss"] == whole["final"]["loss"]
    new = load_file(tmp_path / "out" / "model.safetensors")
    assert all(torch.equal(new[name], weights[name]) for name in weights)


@pytest.mark.slow
def test_a_continued_run_may_have_other_intervals(train: Train, tmp_path: Path) -> None:
    with pytest.raises(Stop):
        train(callbacks=stopping_at(6), save_every=4, eval_every=4, log_every=2)
    report = train(resume=True, save_every=1, eval_every=3, log_every=1, save_total_limit=9)
    assert [step["step"] for step in report["steps"]] == [1, 2, 4, *range(5, 13)]
    assert [one["step"] for one in report["evaluations"]] == [4, 6, 9, 12]
    kept = {int(path.name.partition("-")[2]) for path in (tmp_path / "out" / "checkpoints").glob("checkpoint-*")}
    assert kept == {4, *range(5, 13)}


@pytest.mark.slow
def test_one_checkpoint_is_the_last_one_and_the_best(train: Train, tmp_path: Path) -> None:
    report = train(lr=3.0, save_every=1, eval_every=1, save_total_limit=1, optimizer="sgd", schedule="wsd", force=True)
    losses = {one["step"]: one["loss"] for one in report["evaluations"]}
    best = min(losses, key=lambda step: losses[step])
    kept = {path.name for path in (tmp_path / "out" / "checkpoints").glob("checkpoint-*")}
    assert kept == {"checkpoint-12", f"checkpoint-{best}"}


@pytest.mark.slow
def test_runs_are_continued_on_request_and_with_equal_options_only(train: Train, tmp_path: Path) -> None:
    with pytest.raises(Stop):
        train(callbacks=stopping_at(4), save_every=2, lr=0.002)
    with pytest.raises(TrainingError, match="contains the checkpoints of a run: add --resume"):
        train(save_every=2)
    with pytest.raises(TrainingError, match=r"--lr is 0.5, but the run began with 0.002"):
        train(resume=True, lr=0.5)
    record = json.loads((tmp_path / "out" / RECORD).read_text())
    (tmp_path / "out" / RECORD).write_text(json.dumps(record | {"plan": record["plan"] | {"rows": 3}}))
    with pytest.raises(TrainingError, match=r"a step has \d rows, but the run began with 3: processes x --batch-size"):
        train(resume=True, lr=0.002)
    (tmp_path / "out" / RECORD).write_text(json.dumps(record))
    with pytest.raises(TrainingError, match="--seed is 3, but the run began with 0"):
        train(resume=True, lr=0.002, model={"seed": 3})
    train(resume=True, lr=0.002, save_every=3, log_every=2)
    with pytest.raises(TrainingError, match=r"contains a run that has ended: .* add --load-from-checkpoint"):
        train(resume=True, lr=0.002)


@pytest.mark.slow
def test_changed_data_is_noticed(train: Train, texts: Path) -> None:
    with pytest.raises(Stop):
        train(callbacks=stopping_at(4), save_every=2, eval_fraction=0.3)
    added = texts / "0.txt"  # before the others: documents behind those that were read may be new
    for held_out in (True, False):
        names = (f"document {number}" for number in range(40))
        added.write_text(next(name for name in names if (document_hash(name) < 0.3 * 2**HASH_BITS) == held_out))
        with pytest.raises(DataError, match="held-out documents are" if held_out else "changed since the checkpoint"):
            train(resume=True, eval_fraction=0.3)
    added.unlink()
    train(resume=True, eval_fraction=0.3)


@pytest.mark.slow
def test_two_runs_do_not_share_a_directory(train: Train, tmp_path: Path) -> None:
    def again(report: dict[str, Any]) -> None:
        with pytest.raises(DirectoryError, match=r"another run trains in .*: wait for it to end, or"):
            train()
        raise Stop

    with pytest.raises(Stop):
        train(callbacks=TrainingCallbacks(begin=again))
    assert not list((tmp_path / "out").glob(".*.lock"))


@pytest.mark.slow
def test_the_best_checkpoint_is_known_after_a_move(train: Train, tmp_path: Path) -> None:
    rising = {"lr": 3.0, "save_every": 1, "eval_every": 1, "optimizer": "sgd", "schedule": "wsd", "force": True}
    with pytest.raises(Stop):
        train(callbacks=stopping_at(6), **rising)
    state = json.loads((find_latest_checkpoint(tmp_path / "out") / "trainer_state.json").read_text())
    assert (best := state["best_global_step"]) < 4  # not among the last two
    (tmp_path / "out").rename(tmp_path / "moved")
    report = train("moved", resume=True, **rising)
    losses = {one["step"]: one["loss"] for one in report["evaluations"]}
    assert min(losses, key=lambda step: losses[step]) == best
    assert Path(report["final"]["best_checkpoint"]) == tmp_path / "moved" / "checkpoints" / f"checkpoint-{best}"
    assert Path(report["final"]["best_checkpoint"]).is_dir()


@pytest.mark.slow
def test_the_best_checkpoint_is_one_that_was_saved(train: Train, tmp_path: Path) -> None:
    report = train(lr=3.0, optimizer="sgd", schedule="wsd", force=True, eval_every=1, save_every=4, save_total_limit=1)
    losses = {one["step"]: one["loss"] for one in report["evaluations"]}
    assert min(losses, key=lambda step: losses[step]) not in (4, 8, 12)
    best = min((4, 8, 12), key=lambda step: losses[step])
    kept = {path.name for path in (tmp_path / "out" / "checkpoints").glob("checkpoint-*")}
    assert kept == {f"checkpoint-{best}", "checkpoint-12"}
    assert Path(report["final"]["best_checkpoint"]).name == f"checkpoint-{best}"


@pytest.mark.slow
def test_a_checkpoint_without_its_state_is_refused(train: Train, tmp_path: Path) -> None:
    with pytest.raises(Stop):
        train(callbacks=stopping_at(4), save_every=2)
    latest = find_latest_checkpoint(tmp_path / "out")
    assert latest is not None
    for name in ("optimizer.pt", "scheduler.pt", "rng_state.pth", "trainer_state.json"):
        (latest / name).rename(tmp_path / name)
        with pytest.raises(TrainingError, match=f"has no {name}: remove this directory to continue from an earlier"):
            train(resume=True)
        (tmp_path / name).rename(latest / name)
    for name, error in (("optimizer.pt", CheckpointError), (POSITION, TrainingError)):
        content = (latest / name).read_bytes()
        for damaged in (b"{}", content[: len(content) // 2]):
            (latest / name).write_bytes(damaged)
            with pytest.raises(error, match=r"remove (this directory|the directory of this file) to continue from an"):
                train(resume=True)
        (latest / name).write_bytes(content)
    record = tmp_path / "out" / RECORD
    content = record.read_bytes()
    for damaged in (b"{", b"[]", b'{"options": 3}'):
        record.write_bytes(damaged)
        with pytest.raises(TrainingError, match=r"train\.json is damaged"):
            train(resume=True)
    record.unlink()
    with pytest.raises(TrainingError, match=r"has no train\.json, which contains the options of the run"):
        train(resume=True)
    record.write_bytes(content)
    train(resume=True)


@pytest.mark.slow
def test_equal_options_may_be_written_otherwise(
    train: Train, texts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(Stop):
        train(callbacks=stopping_at(4), save_every=2)
    with pytest.raises(TrainingError, match=r"--rms-norm-eps is 0\.5, but the run began with 1e-05"):
        train(resume=True, model={"rms_norm_eps": 0.5})
    monkeypatch.chdir(tmp_path)
    train(resume=True, lr=1e-3, tokens="1.536k", dataset_project="texts", save_total_limit=10**7)


def test_a_refused_run_changes_nothing(train: Train, tmp_path: Path) -> None:
    def again(report: dict[str, Any]) -> None:
        before = (tmp_path / "out" / "config.json").read_text()
        with pytest.raises(DirectoryError, match="another run trains"):
            train(model={"num_hidden_layers": 3}, refresh=True)
        assert (tmp_path / "out" / "config.json").read_text() == before
        raise Stop

    with pytest.raises(Stop):
        train(callbacks=TrainingCallbacks(begin=again))


@pytest.mark.slow
def test_a_resumed_run_without_a_checkpoint_begins(train: Train) -> None:
    assert len(train(resume=True)["steps"]) == 12


@pytest.mark.slow
def test_the_best_and_the_last_checkpoints_are_kept(train: Train, tmp_path: Path) -> None:
    report = train(lr=3.0, save_every=1, eval_every=1, save_total_limit=2, optimizer="sgd", schedule="wsd", force=True)
    losses = {one["step"]: one["loss"] for one in report["evaluations"]}
    best = min(losses, key=lambda step: losses[step])
    kept = {path.name for path in (tmp_path / "out" / "checkpoints").glob("checkpoint-*")}
    assert kept == {"checkpoint-11", "checkpoint-12", f"checkpoint-{best}"}
    assert Path(report["final"]["best_checkpoint"]).name == f"checkpoint-{best}"


@pytest.mark.slow
def test_a_loss_that_is_not_finite_stops_the_run(train: Train, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"step \d+: .*the last checkpoint is .*checkpoint-1") as error:
        train(lr=1e30, warmup=0, save_every=1, max_grad_norm=0)
    assert "nan" in str(error.value) or "finite" in str(error.value) or "inf" in str(error.value)
    latest = find_latest_checkpoint(tmp_path / "out")
    assert latest is not None
    assert all(values.isfinite().all() for values in load_file(latest / "model.safetensors").values())


@pytest.mark.slow
def test_a_full_disk_leaves_the_last_checkpoint_whole(
    train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save = trainer.save_checkpoint

    def fails_at_second(path: str, *args: Any, **kwargs: Any) -> Any:
        if "checkpoint-4" in str(path):
            (Path(path) / "half").write_bytes(b"x")
            raise OSError(errno.ENOSPC, "No space left on device")
        return save(path, *args, **kwargs)

    monkeypatch.setattr(trainer, "save_checkpoint", fails_at_second)
    with pytest.raises(ForgatherError, match="No space left on device") as error:
        train(save_every=2)
    assert isinstance(error.value, CheckpointError)
    assert "checkpoint-2" in str(error.value)
    assert [path.name for path in (tmp_path / "out" / "checkpoints").iterdir()] == ["checkpoint-2"]
    monkeypatch.undo()
    assert len(train(resume=True, save_every=2)["steps"]) == 12


def test_a_run_that_does_not_fit_is_refused_before_it_begins(train: Train, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = namedtuple("usage", "total used free")(10**9, 10**9, 1000)
    monkeypatch.setattr(cost.shutil, "disk_usage", lambda _: usage)
    with pytest.raises(TrainingError, match=r"the checkpoints need .* of disk space, and 1,000 bytes are free"):
        train()
    monkeypatch.undo()
    monkeypatch.setattr(cost, "free_memory", lambda _: 1000)
    with pytest.raises(TrainingError, match=r"a step needs .* of memory, and 1,000 bytes are available on cpu"):
        train()


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"dataset_project": None}, "--dataset-project is required"),
        ({"tokens": "many"}, "--tokens: expected a number of tokens such as 500k, 10M or 2B, got 'many'"),
        ({"tokens": "0"}, "--tokens: expected a number"),
        ({"tokens": "9" * 400}, "--tokens: expected a number"),
        ({"model": {"dtype": "bfloat16"}}, "--dtype must be float32"),
        ({"report_to": "nothing"}, "--report-to: 'nothing' is not an installed tracker"),
        ({"schedule": "wsd", "warmup": 0.9}, "--warmup must be at most 0.8 with --schedule wsd"),
        ({"fuse_optim_with_backward": True}, "requires --max-grad-norm 0"),
        (
            {"fuse_optim_with_backward": True, "max_grad_norm": 0.0, "gradient_accumulation_steps": 2},
            "requires --gradient-accumulation-steps 1",
        ),
        ({"fuse_optim_with_backward": True, "max_grad_norm": 0.0, "optimizer": "muon"}, "does not support muon"),
    ],
)
def test_contradictions_are_refused(options: dict[str, Any], problem: str, train: Train, tmp_path: Path) -> None:
    with pytest.raises(ForgatherError, match=problem):
        train(**options)
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_updates_within_backward_train_the_same(train: Train, tmp_path: Path) -> None:
    train("plain", max_grad_norm=0.0)
    train("fused", max_grad_norm=0.0, fuse_optim_with_backward=True)
    plain, fused = (load_file(tmp_path / name / "model.safetensors") for name in ("plain", "fused"))
    assert all(torch.equal(plain[name], fused[name]) for name in plain)


@pytest.mark.slow
def test_the_first_device_is_used_by_default(train: Train) -> None:
    report = train(model={"device": None})
    assert report["setup"]["device"] in ("cpu", "cuda:0", "mps:0")
    with pytest.raises(TrainingError, match="--device must be cpu, cuda, cuda:N or mps; got 'meta'"):
        train("other", model={"device": "meta"})


@pytest.mark.slow
def test_a_single_document_is_cut(train: Train, texts: Path) -> None:
    kept = texts / "all.txt"
    kept.write_text("\n".join(path.read_text() for path in sorted(texts.glob("*.txt"))))
    report = train(dataset_project=str(kept))
    assert "has one document: its end is held out" in report["notes"][-1]
    shutil.rmtree(texts)
    with pytest.raises(DataError, match="neither a file, a directory"):
        train("other", dataset_project=str(kept))


@pytest.mark.slow
def test_the_unigram_entropy_is_that_of_the_held_out_tokens(train: Train) -> None:
    held_out = train(eval_fraction=0.2)["data"]["held_out"]
    assert 0 < held_out["unigram_entropy"] < math.log(384)
    assert held_out["documents"] > 1


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ({"no_init_weights": True}, "--no-init-weights requires --load-from-checkpoint"),
        ({"attn_implementation": "flex_attention"}, "flex_attention has no backward pass on the CPU"),
    ],
)
def test_a_model_that_cannot_be_trained_is_refused_before_it_is_constructed(
    train: Train, tmp_path: Path, model: dict[str, Any], message: str
) -> None:
    with pytest.raises(BuildError, match=message):
        train(model=model)
    assert not (tmp_path / "out").exists()
