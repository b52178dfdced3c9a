"""TRL's trainers on preferences and rewards: DPO and GRPO on a model directory."""

from __future__ import annotations

import json
import math

import pytest

from tests.support.fork_server import ForkServer

from .conftest import run_in

pytestmark = pytest.mark.slow

SIZES = ("--hidden-size", "32", "--intermediate-size", "48", "--num-hidden-layers", "2", "--tokenizer", "bpe-2k")
PROGRAM = """
import json, sys, warnings
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import DPOConfig, DPOTrainer, GRPOConfig, GRPOTrainer

warnings.simplefilter("ignore")
directory, report = sys.argv[1:]
tokenizer = AutoTokenizer.from_pretrained(directory, trust_remote_code=True)
def load():
    return AutoModelForCausalLM.from_pretrained(directory, trust_remote_code=True)
def train(make, name, **options):
    model = load()
    before = {name: weight.detach().clone() for name, weight in model.named_parameters()}
    settings = {"optim": "sgd", "learning_rate": 0.5, "max_steps": 4, "logging_steps": 1, "report_to": "none",
        "seed": 0, "use_cpu": True, "bf16": False, "disable_tqdm": True, "per_device_train_batch_size": 4,
        "save_strategy": "no"}
    trainer = make(model, {"output_dir": name} | settings | options)
    trainer.train()
    moved = {name: (weight - before[name]).abs().max().item() for name, weight in model.named_parameters()}
    return {"losses": [entry["loss"] for entry in trainer.state.log_history if "loss" in entry], "moved": moved}
pairs = [{"prompt": "def f(x):", "chosen": f" return x + {i}", "rejected": f" pass  # {i}"} for i in range(8)]
prompts = [{"prompt": f"def f{i}(x):"} for i in range(8)]
def reward(completions, **_):
    return [float(len(text) + text.count("e")) for text in completions]
found = {
    "dpo": train(lambda model, options: DPOTrainer(model=model, ref_model=load(), args=DPOConfig(**options),
        train_dataset=Dataset.from_list(pairs), processing_class=tokenizer), "dpo"),
    "grpo": train(lambda model, options: GRPOTrainer(model=model, reward_funcs=reward, args=GRPOConfig(**options),
        train_dataset=Dataset.from_list(prompts), processing_class=tokenizer), "grpo",
        num_generations=4, max_completion_length=6),
}
json.dump(found, open(report, "w"))
"""


@pytest.mark.parametrize("definition", ["llama", "deepone"])
def test_preferences_and_rewards_move_every_weight(
    definition: str, tmp_path_factory: pytest.TempPathFactory, server: ForkServer
) -> None:
    pytest.importorskip("trl")
    place = tmp_path_factory.mktemp(definition)
    run = run_in(place, server)
    options = ("--device", "cpu", "--seed", "1", "--save-checkpoint", "--safetensors", "--output-dir", definition)
    run("-m", "forgather_cli.main", "-t", definition, "model", *SIZES, *options, "construct")
    run("-c", PROGRAM, definition, "report.json")
    for found in json.loads((place / "report.json").read_text()).values():
        assert len(found["losses"]) == 4
        assert all(math.isfinite(loss) for loss in found["losses"])
        assert {name: far for name, far in found["moved"].items() if not 0 < far < 1} == {}
