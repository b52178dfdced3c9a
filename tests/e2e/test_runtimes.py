"""Model directories for other runtimes and number formats: torch.export, the ExecuTorch recipe, quantized weights."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.support.fork_server import ForkServer

from .conftest import SAMPLE_OF_DEFINITIONS, run_in

pytestmark = pytest.mark.slow

SIZES = ("--hidden-size", "64", "--intermediate-size", "96", "--num-hidden-layers", "2", "--tokenizer", "bpe-2k")
PROGRAM = """
import importlib.util, json, sys, warnings
import torch
from transformers import AutoModelForCausalLM, GenerationConfig
from transformers.integrations.executorch import TorchExportableModuleForDecoderOnlyLM

warnings.simplefilter("ignore")
directory, report = sys.argv[1:]
def load(**options):
    return AutoModelForCausalLM.from_pretrained(directory, trust_remote_code=True, **options).eval()
model, ids = load(), torch.arange(3, 11)[None]
found = {}
with torch.no_grad():
    logits = model(ids, use_cache=False).logits
    program = torch.export.export(model, (), {"input_ids": ids, "use_cache": False}, strict=False)
    found["torch.export"] = (program.module()(input_ids=ids, use_cache=False).logits - logits).abs().max().item()

    recipe = load()
    recipe.generation_config.cache_implementation = "static"
    step = TorchExportableModuleForDecoderOnlyLM(recipe, batch_size=1, max_cache_len=16)
    step = step.export(input_ids=ids[:, :1]).module()
    each = [step(input_ids=ids[:, i : i + 1], cache_position=torch.tensor([i])) for i in range(ids.shape[1])]
    found["executorch"] = (torch.cat(each, dim=1) - logits).abs().max().item()

    if importlib.util.find_spec("torchao"):
        from transformers import TorchAoConfig
        from torchao.quantization import Int8WeightOnlyConfig

        low = load(quantization_config=TorchAoConfig(Int8WeightOnlyConfig()))
        found["torchao"] = (low(ids).logits - logits).abs().max().item() / logits.std().item()
    if importlib.util.find_spec("optimum") and importlib.util.find_spec("optimum.quanto"):
        from transformers import QuantoConfig

        low = load(quantization_config=QuantoConfig(weights="int8"))
        found["quanto"] = (low(ids).logits - logits).abs().max().item() / logits.std().item()
json.dump(found, open(report, "w"))
"""


@pytest.fixture(scope="module", params=SAMPLE_OF_DEFINITIONS)
def differences(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, server: ForkServer
) -> dict[str, float]:
    """Return the largest difference of logits by tool; for quantized weights in standard deviations of the logits."""
    definition: str = request.param
    place = tmp_path_factory.mktemp(definition)
    run = run_in(place, server)
    options = ("--device", "cpu", "--seed", "1", "--save-checkpoint", "--safetensors", "--output-dir", definition)
    run("-m", "forgather_cli.main", "-t", definition, "model", *SIZES, *options, "construct")
    run("-c", PROGRAM, definition, "report.json")
    result: dict[str, float] = json.loads((place / "report.json").read_text())
    return result


@pytest.mark.parametrize(("tool", "bound"), [("torch.export", 1e-5), ("executorch", 1e-5)])
def test_exported_programs_compute_the_same(differences: dict[str, Any], tool: str, bound: float) -> None:
    assert differences[tool] <= bound


@pytest.mark.parametrize("tool", ["torchao", "quanto"])
def test_quantized_weights_compute_nearly_the_same(differences: dict[str, Any], tool: str) -> None:
    if tool not in differences:
        pytest.skip(f"{tool} is not installed")
    assert 0 < differences[tool] < 0.2
