"""Model directories split over two processes give the results of one process, without Forgather installed."""

from __future__ import annotations

import dataclasses
import json
import math
import os
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from transformers.distributed import DistributedConfig

from tests.support.fork_server import ForkServer
from tests.support.processes import run_ranks

from .conftest import run_in, sample

WAYS = {"tp_size", "pp_size", "fsdp_size"}
KNOWN = {field.name for field in dataclasses.fields(DistributedConfig)}
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not KNOWN >= WAYS, reason=f"transformers {transformers.__version__} has no {', '.join(sorted(WAYS - KNOWN))}"
    ),
]

LAYERS = 3  # two for the first stage of a pipeline, one for the second
GROUPED = ("--num-attention-heads", "4", "--num-key-value-heads", "2")
OPTIONS = {
    "causal_lm": ("--num-attention-heads", "4", "--embedding-dropout", "0", "--layer-dropout", "0"),
    "deepone": (*GROUPED, "--sliding-window", "null"),
    "llama": GROUPED,
    "mistral": (*GROUPED, "--sliding-window", "5"),
    "qwen3": (*GROUPED, "--head-dim", "16", "--sliding-window", "5", "--max-window-layers", "1"),
    "smollm3": (*GROUPED, "--no-rope-layer-interval", "2", "--sliding-window", "5"),
    "single_head": (),
}
SIZES = ("--hidden-size", "32", "--intermediate-size", "48", "--num-hidden-layers", str(LAYERS))
TIES = {"untied": "--no-tie-word-embeddings", "tied": "--tie-word-embeddings"}
TOLERANCE = 1e-5

Reports = list[dict[str, Any]]


@pytest.fixture(scope="module", params=sample("deepone", "qwen3"))
def definition(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture(scope="module")
def reports(definition: str, tmp_path_factory: pytest.TempPathFactory, server: ForkServer) -> Reports:
    """Return the reports of the two processes for the definition's directories, untied and tied."""
    place = tmp_path_factory.mktemp(definition)
    run = run_in(place, server, OMP_NUM_THREADS="1")
    model = ("-m", "forgather_cli.main", "-t", definition, "model", *SIZES, *OPTIONS[definition])
    checkpoint = ("--device", "cpu", "--save-checkpoint", "--safetensors")
    for tie, flag in TIES.items():
        run(*model, flag, *checkpoint, "--output-dir", tie, "construct")
        randomize_weights(place / tie)
    script = Path(__file__).with_name("scale_out.py")
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    done = run_ranks(server, script, str(place), *TIES, cwd=place, environment=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    return [json.loads((place / f"{rank}.json").read_text()) for rank in range(2)]


def randomize_weights(directory: Path) -> None:
    """Fill all weights of a directory randomly, so that no norm, bias or slope is trivial and all heads differ."""
    generator = torch.Generator().manual_seed(1)
    for file in directory.glob("*.safetensors"):
        weights = load_file(file)
        for name, weight in weights.items():
            drawn = torch.randn(weight.shape, generator=generator)
            if name.endswith("slopes"):
                weights[name] = 0.3 + 0.1 * drawn
            elif name.endswith("bias"):
                weights[name] = 0.2 * drawn
            elif "norm" in name:
                weights[name] = 1 + 0.2 * drawn
            elif "lm_head" in name:
                weights[name] = 0.1 * drawn
            elif "embed" in name:
                weights[name] = 0.2 * drawn
            else:
                weights[name] = drawn * weight.shape[-1] ** -0.5
        save_file(weights, file, {"format": "pt"})


@pytest.mark.parametrize("way", ["tp", "pp", "fsdp", "fsdp, bfloat16"])
@pytest.mark.parametrize("tie", TIES)
def test_logits_and_greedy_tokens_are_those_of_one_process(reports: Reports, tie: str, way: str) -> None:
    for report in reports:
        seen = report[tie][way]
        assert seen["size of logits"] > 1
        assert seen["logits"] < TOLERANCE
        assert seen["tokens"] == seen["tokens of the whole"]
        assert [len(row) for row in seen["tokens"]] == [21, 21]


@pytest.mark.parametrize("way", ["tp", "fsdp", "fsdp, bfloat16"])
@pytest.mark.parametrize("tie", TIES)
def test_gradients_of_every_parameter_are_those_of_one_process(reports: Reports, tie: str, way: str) -> None:
    for report in reports:
        gradients = report[tie][way]["gradients"]
        assert gradients.keys() == report[tie][way]["parameters"].keys()
        assert {name: off for name, off in gradients.items() if not off < TOLERANCE} == {}


def of_layers(*leaves: str) -> set[str]:
    """Return the full names of the parameters of each layer."""
    return {f"model.layers.{layer}.{leaf}" for layer in range(LAYERS) for leaf in leaves}


@pytest.mark.parametrize("tie", TIES)
def test_tensor_parallel_splits_every_matrix_and_its_companions(reports: Reports, definition: str, tie: str) -> None:
    here = [report[tie]["tp"]["parameters"] for report in reports]
    split = {"model.embed_tokens.weight"} | ({"lm_head.weight"} if tie == "untied" else set())
    split |= of_layers("mlp.up_proj.weight", "mlp.down_proj.weight")
    if definition == "causal_lm":
        split |= of_layers("mlp.up_proj.bias")
    else:
        split |= of_layers("mlp.gate_proj.weight")
    if definition != "single_head":
        split |= of_layers(*(f"self_attn.{x}_proj.weight" for x in "qkvo"))
    if definition == "deepone":
        split |= of_layers("self_attn.alibi.slopes")
    for name, parameter in here[0].items():
        share = 2 if name in split else 1
        assert [numel(rank[name]["here"]) * share for rank in here] == [numel(parameter["shape"])] * 2, name
    assert split <= here[0].keys()


@pytest.mark.parametrize("tie", TIES)
def test_each_stage_of_a_pipeline_has_its_layers_alone(reports: Reports, tie: str) -> None:
    layers = [
        {name.split(".")[2] for name in report[tie]["pp"]["parameters"] if name.startswith("model.layers.")}
        for report in reports
    ]
    assert layers == [{"0", "1"}, {"2"}]


@pytest.mark.parametrize("way", ["fsdp", "fsdp, bfloat16"])
@pytest.mark.parametrize("tie", TIES)
def test_fully_sharded_each_process_has_a_part_of_every_parameter(reports: Reports, tie: str, way: str) -> None:
    here = [report[tie][way]["parameters"] for report in reports]
    for name, parameter in here[0].items():
        counts = [numel(rank[name]["here"]) for rank in here]
        assert sum(counts) == numel(parameter["shape"]), name
        assert max(counts) < sum(counts) or sum(counts) == 1, name


@pytest.mark.parametrize("tie", TIES)
def test_slopes_stay_float32_in_a_model_of_bfloat16_and_are_a_unit_of_their_own(
    reports: Reports, definition: str, tie: str
) -> None:
    alibi = of_layers("self_attn.alibi") if definition in ("deepone", "single_head") else set()
    for report in reports:
        exact, coarse = report[tie]["fsdp"], report[tie]["fsdp, bfloat16"]
        dtypes = {name: parameter["dtype"] for name, parameter in coarse["parameters"].items()}
        slopes = {f"{name}.slopes" for name in alibi}
        assert {name for name, dtype in dtypes.items() if dtype == "torch.float32"} == slopes
        assert set(dtypes.values()) - {"torch.float32"} == {"torch.bfloat16"}
        assert set(coarse["units"]) == set(exact["units"]) | alibi
        assert not alibi & set(exact["units"])


def test_plain_fsdp_draws_the_weights_of_one_process(tmp_path: Path, server: ForkServer) -> None:
    for name, options in OPTIONS.items():
        model = ("-m", "forgather_cli.main", "-t", name, "model", *SIZES, *options, "--output-dir", name)
        run_in(tmp_path, server, OMP_NUM_THREADS="1")(*model, "construct")
    script = Path(__file__).with_name("plain_fsdp.py")
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    for count in (2, 3):
        done = run_ranks(server, script, str(tmp_path), *OPTIONS, cwd=tmp_path, environment=environment, size=count)
        assert done.returncode == 0, done.stdout + done.stderr
        reports = [json.loads((tmp_path / f"{rank}-of-{count}.json").read_text()) for rank in range(count)]
        for name in OPTIONS:
            for report in reports:
                found = report[name]
                assert len(found["equal"]) > LAYERS
                assert [each for each, same in (found["equal"] | found["buffers"]).items() if not same] == [], name
            assert sum(report[name]["held"] for report in reports) == reports[0][name]["elements"]


def numel(shape: list[int]) -> int:
    """Return the number of elements of a tensor of this shape."""
    return math.prod(shape)
