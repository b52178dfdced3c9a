"""`train`, `sample` and `evaluate` as functions."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

import forgather as fg
from tests.support.settings import SMALLEST


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("texts")
    for number in range(20):
        (place / f"{number}.txt").write_text(f"the text of number {number} is like the others " * 6)
    return place


@pytest.fixture(scope="module")
def trained(texts: Path, tmp_path_factory: pytest.TempPathFactory) -> fg.TrainingRun:
    place = tmp_path_factory.mktemp("model") / "small"
    return fg.train(
        "llama",
        **SMALLEST,
        output_dir=place,
        device="cpu",
        chat_template="chatml",
        dataset_project=texts,
        tokens=1024,
        sequence_length=32,
        batch_size=4,
        lr=1e-2,
    )


def test_a_run_has_its_results(trained: fg.TrainingRun) -> None:
    assert trained.losses[-1] < trained.losses[0]
    assert trained.evaluation_loss is not None
    assert trained.bits_per_byte is not None
    assert (trained.directory / "model.safetensors").is_file()
    assert repr(trained) == f"<TrainingRun of llama_4m: 8 steps, evaluation loss {trained.evaluation_loss:.4f}>"
    assert json.dumps(trained.to_dict())
    assert "Training run" in trained._repr_html_()


def test_a_saved_model_is_evaluated_as_at_the_end_of_its_run(trained: fg.TrainingRun, texts: Path) -> None:
    found = fg.evaluate(
        trained.directory, dataset_project=texts, held_out=True, sequence_length=32, batch_size=4, device="cpu"
    )
    assert found.loss == pytest.approx(trained.evaluation_loss, rel=1e-6)
    assert found.bits_per_byte == pytest.approx(trained.bits_per_byte, rel=1e-6)
    whole = fg.evaluate(trained.directory, dataset_project=texts, tokens="all", sequence_length=32, device="cpu")
    assert whole.to_dict()["documents"] == 20
    assert "Evaluation" in found._repr_html_()


def test_samples_are_those_of_the_seed(trained: fg.TrainingRun) -> None:
    one = fg.sample(trained.directory, "the text", max_new_tokens=8, samples=2, seed=3, device="cpu")
    again = fg.sample(trained.directory, "the text", max_new_tokens=8, samples=2, seed=3, device="cpu")
    other = fg.sample(trained.directory, "the text", max_new_tokens=8, samples=2, seed=4, device="cpu")
    assert one.continuations == again.continuations != other.continuations
    assert len(one.continuations) == 2
    assert one.to_dict()["samples"][0]["prompt"] == "the text"
    likely = fg.sample(trained.directory, "the text", temperature=0, max_new_tokens=8, samples=2, device="cpu")
    assert likely.continuations[0] == likely.continuations[1]


def test_a_model_begins_by_itself_and_chats(trained: fg.TrainingRun) -> None:
    assert len(fg.sample(trained.directory, max_new_tokens=4, device="cpu").continuations) == 1
    chat = fg.sample(trained.directory, "question", chat=True, max_new_tokens=4, device="cpu").to_dict()["samples"][0]
    assert "question" in chat["prompt"]
    assert "user" in chat["prompt"]


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda place: fg.train("llama"), fg.ForgatherError, "dataset_project is required"),
        (lambda place: fg.train("llama", token=3), TypeError, r"no option 'token'\. Did you mean 'tokens'\?"),
        (fg.sample, fg.ForgatherError, "is not a model directory: it has no config.json"),
        (fg.evaluate, TypeError, r"evaluate\(\) requires dataset_project"),
        (lambda place: fg.evaluate(place, dataset_project=place / "no"), fg.ForgatherError, "neither a file"),
        (lambda place: fg.sample(place, top_p=2), fg.ForgatherError, "top_p"),
    ],
)
def test_errors_say_what_to_do(call: object, error: type[Exception], message: str, tmp_path: Path) -> None:
    assert callable(call)
    with pytest.raises(error, match=message):
        call(tmp_path)


def test_a_missing_weight_is_refused_with_a_hint_for_the_command(tmp_path: Path) -> None:
    fg.construct("llama", **SMALLEST, output_dir=tmp_path / "m", device="cpu", save_checkpoint=True, safetensors=True)
    weights = load_file(tmp_path / "m/model.safetensors")
    del weights["model.norm.weight"]
    save_file(weights, tmp_path / "m/model.safetensors", {"format": "pt"})
    with pytest.raises(
        fg.ForgatherError,
        match=r"1 tensor missing .*: restore the weights, or .* construct it with save_checkpoint=True",
    ) as error:
        fg.sample(tmp_path / "m", device="cpu")
    assert "strict" not in str(error.value)


def test_nothing_is_held_out_of_another_model(trained: fg.TrainingRun, texts: Path, tmp_path: Path) -> None:
    fg.construct("llama", **SMALLEST, output_dir=tmp_path / "m", device="cpu", save_checkpoint=True, safetensors=True)
    with pytest.raises(fg.ForgatherError, match=r"has no train\.json: nothing was held out"):
        fg.evaluate(tmp_path / "m", dataset_project=texts, held_out=True)
