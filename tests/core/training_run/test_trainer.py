"""The public Trainer in a script of one's own, with any dataset."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from torch import nn
from torch.utils.data import DataLoader
from transformers import (
    AutoModelForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    TrainingArguments,
)

from forgather.training import PackedStream, Trainer, TrainingCallback
from forgather_core.checkpoint import step_checkpoints
from forgather_core.data.corpus import Corpus
from forgather_core.errors import CheckpointError, DataError, TrainingError

ROWS = [{"input_ids": torch.arange(n, n + 12) % 50, "labels": torch.arange(n, n + 12) % 50} for n in range(16)]


def llama() -> Any:
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    return LlamaForCausalLM(LlamaConfig(vocab_size=50, max_position_embeddings=32, **sizes))


def arguments(place: Path, **more: Any) -> TrainingArguments:
    usual: dict[str, Any] = {
        "max_steps": 6,
        "save_steps": 2,
        "logging_steps": 1,
        "learning_rate": 1e-2,
        "use_cpu": True,
        "report_to": [],
        "disable_tqdm": True,
    }
    return TrainingArguments(output_dir=str(place), **usual | more)


def trainer(place: Path, model: Any = None, **more: Any) -> Trainer:
    callback = TrainingCallback(8 * 12)
    return Trainer(model=model or llama(), args=arguments(place, **more), train_dataset=ROWS, callbacks=[callback])


def test_it_trains_like_that_of_transformers(tmp_path: Path) -> None:
    """The same losses: the chunked loss, the decay of matrices and the checkpoints change nothing else."""
    import transformers

    ours = trainer(tmp_path / "ours", weight_decay=0.0)
    ours.train()
    theirs = transformers.Trainer(
        model=llama(), args=arguments(tmp_path / "theirs", weight_decay=0.0), train_dataset=ROWS
    )
    theirs.train()
    for a, b in zip(ours.model.parameters(), theirs.model.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-6)


def test_checkpoints_are_model_directories_and_continue(tmp_path: Path) -> None:
    whole = trainer(tmp_path / "whole")
    whole.train()
    found = step_checkpoints(tmp_path / "whole")
    assert [(one.step, one.problem) for one in found] == [(2, None), (4, None), (6, None)]
    loaded = AutoModelForCausalLM.from_pretrained(found[-1].path)
    assert torch.equal(loaded.lm_head.weight, whole.model.lm_head.weight)
    parts = trainer(tmp_path / "parts", max_steps=6)
    parts.train(resume_from_checkpoint=str(found[0].path))
    for a, b in zip(whole.model.parameters(), parts.model.parameters(), strict=True):
        assert torch.equal(a, b)


def test_of_processes_with_whole_models_the_first_saves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = trainer(tmp_path)
    monkeypatch.setattr(TrainingArguments, "should_save", property(lambda _: False))
    run._save(str(tmp_path / "checkpoint-2"))
    assert not (tmp_path / "checkpoint-2").exists()
    monkeypatch.undo()
    run._save(str(tmp_path / "checkpoint-2"))
    assert (tmp_path / "checkpoint-2" / "model.safetensors").exists()


def test_a_checkpoint_without_a_weight_is_refused_with_what_to_do(tmp_path: Path) -> None:
    run = trainer(tmp_path)
    run.save_model(str(tmp_path / "checkpoint-2"))
    weights = load_file(tmp_path / "checkpoint-2" / "model.safetensors")
    del weights["model.norm.weight"]
    save_file(weights, tmp_path / "checkpoint-2" / "model.safetensors", {"format": "pt"})
    with pytest.raises(CheckpointError, match=r"1 tensor missing .*: remove this directory to continue"):
        run._load_from_checkpoint(str(tmp_path / "checkpoint-2"))


def test_a_best_checkpoint_that_does_not_open_does_not_stop_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "checkpoint-1").mkdir()
    monkeypatch.setattr(Trainer, "best_checkpoint", tmp_path / "checkpoint-1")
    trainer(tmp_path, save_total_limit=1).train()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint-1", "checkpoint-6"]


def test_the_random_state_is_restored_after_the_data_is_skipped(tmp_path: Path) -> None:
    def dropped() -> Any:
        model = llama()
        model.config.attention_dropout = 0.3
        model.model.layers[0].self_attn.attention_dropout = 0.3
        return model

    whole = trainer(tmp_path / "whole", dropped(), save_steps=3)
    whole.train()
    parts = trainer(tmp_path / "parts", dropped(), save_steps=3)
    parts.train(resume_from_checkpoint=str(tmp_path / "whole" / "checkpoint-3"))
    for a, b in zip(whole.model.parameters(), parts.model.parameters(), strict=True):
        assert torch.equal(a, b)


def test_weights_are_unchanged_where_a_loss_is_not_finite(tmp_path: Path) -> None:
    model = llama()
    before = model.lm_head.weight.detach().clone()
    with torch.no_grad():
        model.model.norm.weight[0] = float("nan")
    with pytest.raises(TrainingError, match=r"step 1: the loss is nan: .*norm"):
        trainer(tmp_path, model).train()
    assert torch.equal(model.lm_head.weight, before)


def test_a_gradient_that_is_not_finite_stops_too(tmp_path: Path) -> None:
    class Broken(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
            return x.clone()

        @staticmethod
        def backward(ctx: Any, grad: torch.Tensor) -> torch.Tensor:
            return grad * float("inf")

    class Norm(nn.Module):
        def __init__(self, norm: nn.Module) -> None:
            super().__init__()
            self.norm = norm

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return Broken.apply(self.norm(x))  # type: ignore[no-any-return, no-untyped-call]

    model = llama()
    model.model.norm = Norm(model.model.norm)
    with pytest.raises(TrainingError, match="step 1: a gradient is not finite"):
        trainer(tmp_path, model).train()


def test_decay_applies_to_matrices(tmp_path: Path) -> None:
    made = trainer(tmp_path)
    assert "model.norm.weight" not in made.get_decay_parameter_names(made.model)
    assert "model.layers.0.self_attn.q_proj.weight" in made.get_decay_parameter_names(made.model)


def test_rows_of_a_stream_get_no_mask_and_need_no_padding_token(tmp_path: Path) -> None:
    """A mask of ones would let the documents of a row attend to each other in transformers' own models."""
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(WordLevel({"a": 0, "b": 1, "[E]": 2}, "a")))
    tokenizer.add_special_tokens({"eos_token": "[E]"})
    stream = PackedStream(Corpus("texts", lambda: iter(["a", "b"] * 9)), tokenizer, 2, 6)
    problem = "a step reads 8 rows, but the PackedStream has batches of 2: create the PackedStream with rows=8"
    with pytest.raises(TrainingError, match=problem):
        Trainer(model=llama(), args=arguments(tmp_path), train_dataset=stream, processing_class=tokenizer)
    stream = PackedStream(stream.corpus, tokenizer, 8, 6)
    made = Trainer(model=llama(), args=arguments(tmp_path), train_dataset=stream, processing_class=tokenizer)
    batch = next(iter(made.get_train_dataloader()))
    assert set(batch) == {"input_ids", "position_ids", "labels"}


def test_a_stream_is_not_divided_among_workers(tmp_path: Path) -> None:
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(WordLevel({"a": 0}, "a")))
    stream = PackedStream(Corpus("texts", lambda: iter(["a a"])), tokenizer, 2, 6)
    with pytest.raises(DataError, match="dataloader_num_workers"):
        next(iter(DataLoader(stream, num_workers=1)))
