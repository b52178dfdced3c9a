"""Hugging Face's tools with model directories, without Forgather installed; ecosystem.py runs the tools."""

from __future__ import annotations

import importlib.util
import json
import math
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

from tests.support.fork_server import ForkServer

from .conftest import SAMPLE_OF_DEFINITIONS, run_in

pytestmark = pytest.mark.slow

TOLERANCE = 1e-5
TOPICS = {"trainer": "accelerate", "sft": "trl", "lora": "peft", "generation": None}
GROUPED = ("--num-attention-heads", "4", "--num-key-value-heads", "2")
OPTIONS = {
    "causal_lm": ("--num-attention-heads", "4", "--embedding-dropout", "0", "--layer-dropout", "0"),
    "deepone": (*GROUPED, "--alibi-slopes", "paper"),
    "llama": GROUPED,
    "mistral": (*GROUPED, "--sliding-window", "5"),
    "qwen3": (*GROUPED, "--head-dim", "16"),
    "smollm3": (*GROUPED, "--no-rope-layer-interval", "2"),
    "single_head": (),
}
SIZES = ("--hidden-size", "32", "--intermediate-size", "48", "--num-hidden-layers", "2", "--tokenizer", "bpe-2k")

Report = dict[str, Any]


@pytest.fixture(scope="module", params=SAMPLE_OF_DEFINITIONS)
def report(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, server: ForkServer) -> Report:
    """Return the report of each tool for the definition's directory."""
    definition: str = request.param
    place = tmp_path_factory.mktemp(definition)
    run = run_in(place, server)
    model = ("-m", "forgather_cli.main", "-t", definition, "model", *SIZES, *OPTIONS[definition])
    # With this seed, initial weights show a leak between documents far above the tolerance.
    run(
        *model,
        "--device",
        "cpu",
        "--seed",
        "1",
        "--save-checkpoint",
        "--safetensors",
        "--output-dir",
        "model",
        "construct",
    )
    randomize_weights(place / "model")
    possible = [name for name, needed in TOPICS.items() if needed is None or importlib.util.find_spec(needed)]
    run(str(Path(__file__).with_name("ecosystem.py")), "model", "report.json", *possible)
    result: Report = json.loads((place / "report.json").read_text())
    return result


def randomize_weights(directory: Path) -> None:
    """Scale the layers' matrices so that attention to hidden tokens changes the loss."""
    for file in directory.glob("*.safetensors"):
        weights = load_file(file)
        for name, weight in weights.items():
            if "_proj" in name and weight.dim() == 2:
                weights[name] = weight * (weight.shape[1] ** -0.5 / weight.std())
        save_file(weights, file, {"format": "pt"})


def seen(report: Report, topic: str) -> Report:
    """Return the report's entry for a topic; skip if its package is missing."""
    if (package := TOPICS[topic]) is not None:
        pytest.importorskip(package)
    result: Report = report[topic]
    assert "error" not in result, result["error"]
    return result


def test_the_trainer_moves_every_weight(report: Report) -> None:
    trainer = seen(report, "trainer")
    assert len(trainer["losses"]) == 4
    assert all(0 < loss < 20 for loss in trainer["losses"])
    assert {name: far for name, far in trainer["moved"].items() if not 0 < far < 1} == {}


def test_accumulated_gradients_are_those_of_the_batch_in_one_piece(report: Report) -> None:
    trainer = seen(report, "trainer")
    counts = trainer["targets, items"]
    assert len(counts) == 8
    for (first, items), (second, same) in zip(counts[::2], counts[1::2], strict=True):
        assert items == same == first + second  # num_items_in_batch: the loss is a mean over the targets of both
    assert any(first != second for (first, _), (second, _) in zip(counts[::2], counts[1::2], strict=True))
    assert trainer["from the batch in one piece"] < 1e-6
    assert max(trainer["moved"].values()) > 1e-3


def test_training_goes_on_from_the_trainers_checkpoint(report: Report) -> None:
    trainer = seen(report, "trainer")
    assert trainer["steps of the resumed"] == [1, 2, 3, 4]
    assert trainer["from the resumed"] < 1e-6


def test_the_trainers_checkpoint_is_a_model_directory(report: Report) -> None:
    trainer = seen(report, "trainer")
    assert trainer["logits of the saved"] == 0
    assert trainer["logits of the untrained"] > 1e-2


@pytest.mark.parametrize("rows", ["rows", "packed"])
def test_trl_trains_on_text(report: Report, rows: str) -> None:
    sft = seen(report, "sft")[rows]
    assert len(sft["losses"]) == 4
    assert all(0 < loss < 20 for loss in sft["losses"])
    assert {name: far for name, far in sft["moved"].items() if not 0 < far < 1} == {}
    assert sft["logits of the saved"] == 0


@pytest.mark.parametrize("rows", ["rows", "packed"])
def test_the_loss_that_trl_trains_on_is_that_of_documents_apart(report: Report, rows: str) -> None:
    sft = seen(report, "sft")[rows]
    assert sft["rows"] == (1 if rows == "packed" else 2)
    assert len(sft["documents"]) >= 2
    assert sft["losses"][0] == pytest.approx(sft["first loss, documents apart"], abs=TOLERANCE)
    if rows == "packed":
        leaking = sft["first loss, documents seen by each other"]
        assert abs(leaking - sft["first loss, documents apart"]) > 100 * TOLERANCE  # it would show


def test_only_adapters_on_all_linear_layers_are_trained(report: Report) -> None:
    lora = seen(report, "lora")
    adapters = {
        f"base_model.model.{layer}.lora_{side}.default.weight" for layer in lora["linear layers"] for side in "AB"
    }
    assert len(adapters) >= 2 * 2 * 4
    assert set(lora["trained"]) == adapters
    assert {name for name, far in lora["moved"].items() if far != 0} == adapters
    assert all(math.isfinite(far) for far in lora["moved"].values())


def test_an_adapter_is_saved_loaded_and_merged(report: Report) -> None:
    lora = seen(report, "lora")
    assert lora["logits of the base"] > 1e-2
    assert lora["logits of the loaded"] == 0
    assert lora["logits of the merged"] < TOLERANCE
    assert lora["merged is"] == lora["base is"]


def test_a_pipeline_generates_as_many_tokens_as_are_asked_for(report: Report) -> None:
    generation = seen(report, "generation")
    assert [len(row) for row in generation["by the pipeline"]] == [length + 7 for length in generation["prompts"]]
    assert generation["by the pipeline"] == generation["by generate"]
    prompts = ["def main():", "import os\n\nprint(os"]
    for text, prompt in zip(generation["texts"], prompts, strict=True):
        assert text.startswith(prompt)
        assert len(text) > len(prompt)
