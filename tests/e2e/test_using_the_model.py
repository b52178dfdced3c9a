"""The documented ways to use a model directory, without Forgather installed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from .conftest import DEFINITIONS, Run

pytestmark = pytest.mark.slow

LOAD = """
import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer
model_path = "output_models/llama_4m"
tokenizer = AutoTokenizer.from_pretrained(model_path, trust_remote_code=True)
config = AutoConfig.from_pretrained(model_path, trust_remote_code=True)
"""


# Estimates of memory take most of the time of a command: as many times as there are layers.
SHALLOW = ("--num-hidden-layers", "1")


@pytest.fixture
def built(forgather: Run) -> None:
    forgather("-t", "llama/4M", "model", *SHALLOW, "construct")


# The definition's own std of the embedding: no class of Hugging Face has any of these.
EMBEDDING = {
    "causal_lm": 1 / 16,
    "deepone": 1,
    "llama": 1,
    "mistral": 1,
    "qwen3": 1,
    "single_head": 1 / 16,
    "smollm3": 1 / 16,
}


# CI runs three definitions; the others are exhaustive.
SAMPLE = [
    pytest.param(name, marks=() if name in ("causal_lm", "llama", "single_head") else pytest.mark.exhaustive)
    for name in DEFINITIONS
]


@pytest.mark.parametrize("definition", SAMPLE)
def test_a_new_model_is_made_saved_and_loaded(definition: str, python: Run, forgather: Run) -> None:
    forgather("-t", f"{definition}/4M", "model", *SHALLOW, "construct")
    python(
        LOAD.replace("llama", definition)
        + f"std = {EMBEDDING[definition]}"
        + """
model = AutoModelForCausalLM.from_config(config)
assert 0.95 * std < model.model.embed_tokens.weight.std() < 1.05 * std
tied = model.lm_head.weight is model.model.embed_tokens.weight
assert tied == config.tie_word_embeddings
model.save_pretrained(model_path)
model.save_pretrained(model_path, safe_serialization=False)
again = AutoModelForCausalLM.from_pretrained(model_path, trust_remote_code=True)
assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), again.state_dict().values(), strict=True))
ids = tokenizer("def main():", return_tensors="pt")
with torch.no_grad():
    assert torch.equal(model.eval()(**ids).logits, again.eval()(**ids).logits)
text = again.generate(**ids, max_new_tokens=5, min_new_tokens=5, do_sample=False)
assert text.shape[1] == ids["input_ids"].shape[1] + 5
assert isinstance(again.config, type(config))
assert (again.lm_head.weight is again.model.embed_tokens.weight) == tied
"""
    )
    report = json.loads(forgather("-t", f"{definition}/4M", "model", *SHALLOW, "--json", "construct").stdout)
    assert report["state"] == "reused"  # saving beside the sources is no edit


@pytest.mark.usefixtures("built")
def test_bfloat16_after_a_save_and_the_checkpoint_interface(python: Run) -> None:
    python(
        LOAD
        + """
model = AutoModelForCausalLM.from_config(config)
model.save_pretrained(model_path)  # writes float32 into the very config
from forgather.ml.no_init_weights import no_init_weights
from forgather.ml.utils import default_dtype
with no_init_weights(), default_dtype(torch.bfloat16):
    model = AutoModelForCausalLM.from_config(config)
assert {p.dtype for p in model.parameters()} == {torch.bfloat16}
assert model.model.rotary_emb.inv_freq.dtype == torch.float32
device = "cpu"
model.to(device=device)
from forgather.ml.sharded_checkpoint import load_checkpoint, save_checkpoint
report = load_checkpoint(model_path, model, device=device)
assert not report.missing and not report.unexpected
save_checkpoint(model_path, model)
again = AutoModelForCausalLM.from_pretrained(model_path, trust_remote_code=True, dtype=torch.bfloat16)
assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), again.state_dict().values(), strict=True))
""",
        alone=False,
    )


@pytest.mark.usefixtures("built")
def test_the_headless_model_loads_and_its_buffers_are_right(forgather: Run, python: Run) -> None:
    forgather("-t", "llama/4M", "model", *SHALLOW, "--device", "cpu", "--save-checkpoint", "--safetensors", "construct")
    python(
        LOAD
        + """
from transformers import AutoModel
whole = AutoModelForCausalLM.from_pretrained(model_path, trust_remote_code=True)
base = AutoModel.from_pretrained(model_path, trust_remote_code=True)
ids = torch.arange(12)[None]
assert torch.equal(base(ids).last_hidden_state, whole.model(ids).last_hidden_state)
torch.testing.assert_close(base.rotary_emb.inv_freq, 10000.0 ** -(torch.arange(0, 64, 2) / 64))
"""
    )


@pytest.mark.parametrize("definition", [param for param in SAMPLE if param.values != ("llama",)])
def test_every_definition_trains_on_real_text_from_a_checkpoint(definition: str, forgather: Run) -> None:
    model = ("-t", definition, "model", *SHALLOW, "--device", "cpu", "--json")
    forgather(*model, "--save-checkpoint", "--safetensors", "construct")
    test_options = ("--dataset-project", "stdlib", "--steps", "2", "--sequence-length", "64", "--packed")
    flags = ("--load-from-checkpoint", f"output_models/{definition}_4m", "--gradient-checkpointing")
    report = json.loads(forgather(*model, *flags, "test", *test_options, "--fuse-optim-with-backward").stdout)
    assert report["notes"] == []  # of a loaded checkpoint, a first loss says nothing
    assert [step["step"] for step in report["steps"]] == [1, 2]


def test_a_llama_of_transformers_is_converted_as_documented(forgather: Run, python: Run) -> None:
    forgather("-t", "llama/4M", "model", *SHALLOW, "--native", "--device", "cpu", "--save-checkpoint", "construct")
    python(
        """
from transformers import AutoModelForCausalLM, AutoTokenizer
model = AutoModelForCausalLM.from_pretrained("output_models/llama_4m")
assert type(model).__module__ == "transformers.models.llama.modeling_llama"
model.save_pretrained("native")
AutoTokenizer.from_pretrained("output_models/llama_4m").save_pretrained("native")
"""
    )
    flags = ("--from-config", "native", "--load-from-checkpoint", "native", "--device", "cpu", "--save-checkpoint")
    report = json.loads(forgather("-t", "llama", "model", *flags, "--json", "construct").stdout)
    assert (report["loaded"]["missing"], report["loaded"]["unexpected"]) == ([], [])
    python(
        """
import torch
from transformers import AutoModelForCausalLM
converted = AutoModelForCausalLM.from_pretrained("output_models/native", trust_remote_code=True)
native = AutoModelForCausalLM.from_pretrained("native")
ids = torch.arange(3, 40)[None]
assert (converted(ids).logits - native(ids).logits).abs().max() <= 1e-5
"""
    )


def test_old_weights_move_to_changed_code_in_one_step(forgather: Run, tmp_path: Path) -> None:
    llama = ("-t", "llama/4M", "model", *SHALLOW, "--device", "cpu", "--json")
    forgather(*llama, "--save-checkpoint", "construct")
    directory = tmp_path / "output_models" / "llama_4m"
    (directory / "notes.txt").write_text("mine")
    changed = ("-r", "--sliding-window", "64", "--save-checkpoint", "--safetensors", "--load-from-checkpoint")
    report = json.loads(forgather(*llama, *changed, str(directory), "construct").stdout)
    assert (report["state"], report["loaded"]["loaded"], report["loaded"]["missing"]) == ("rebuilt", 12, [])
    assert (directory / "notes.txt").read_text() == "mine"
    assert json.loads((directory / "config.json").read_text())["sliding_window"] == 64
    assert not list(directory.glob("*.bin*"))


def test_training_on_real_text_carries_on_from_a_checkpoint(forgather: Run) -> None:
    llama = ("-t", "llama/4M", "model", *SHALLOW, "--device", "cpu", "--json")
    forgather(*llama, "--save-checkpoint", "construct")
    load = ("--load-from-checkpoint", "output_models/llama_4m")
    test_options = ("--dataset-project", "stdlib", "--steps", "2", "--sequence-length", "64", "--packed")
    report = json.loads(forgather(*llama, *load, "test", *test_options).stdout)
    assert [step["step"] for step in report["steps"]] == [1, 2]
    assert report["setup"]["data"] == "stdlib/default"
    fresh = json.loads(forgather(*llama, "test", *test_options).stdout)
    assert [step["loss"] for step in fresh["steps"]] == [step["loss"] for step in report["steps"]]  # the same seed


@pytest.mark.usefixtures("built")
@pytest.mark.parametrize(("skip", "times"), [(False, 1), (True, 0)], ids=["initialised", "--no-init-weights"])
def test_a_process_that_begins_with_building_draws_each_weight_once(python: Run, skip: bool, times: int) -> None:
    python(
        f"""
import torch
from pathlib import Path
from torch.overrides import TorchFunctionMode
from forgather_core.model.build import build
from forgather_core.options.shared import BuildOptions

filled = []
class Counting(TorchFunctionMode):
    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func is torch.Tensor.normal_ and args[0].numel() >= 2**12:  # excludes resampled outliers
            filled.append(args[0].numel())
        return func(*args, **kwargs or {{}})

torch.set_num_threads(1)  # what other threads draw would not be counted
with Counting():
    model = build(Path("output_models/llama_4m"), BuildOptions(device="cpu", no_init_weights={skip}))
assert sum(filled) == sum(p.numel() for p in model.parameters() if p.dim() == 2) * {times}  # in pieces
""",
        alone=False,
    )
