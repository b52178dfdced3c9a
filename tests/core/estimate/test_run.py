"""Reports of estimates and comparisons."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from forgather_core.errors import BuildError, TokenizerError
from forgather_core.estimate import Memory, compare, estimate
from forgather_core.estimate.devices import Device
from forgather_core.estimate.fits import RESERVE, Fits
from forgather_core.options.command_options import EstimateOptions

from .conftest import Resolve

SHORT = {"num_hidden_layers": 2, "max_position_embeddings": 64}


@pytest.fixture
def devices(tmp_path: Path) -> Path:
    file = tmp_path / "devices.yaml"
    file.write_text(
        "Small: {memory: 0.5, bandwidth: 100, flops: {fp32: 1, bf16: 2}}\n"
        "Large: {memory: 100, bandwidth: 1000, flops: {fp32: 10, bf16: 20}}\n"
        "Unknown: {memory: 100}\n"
    )
    return file


def test_a_report_is_consistent(resolved: Resolve, devices: Path) -> None:
    options = EstimateOptions(hardware=devices, batch_size=2, sequence_length=32, mfu=0.5)
    report = estimate(resolved("llama/4M", **SHORT), options)
    assert json.loads(json.dumps(report))["training"] == report["training"]
    table, training, flops = report["parameters"], report["training"], report["flops"]
    assert table["total"] == table["embedding"] + table["non_embedding"]
    assert (
        table["bytes"] == sum(table["bytes_by_dtype"].values()) == table["bytes_in"]["float32"] == training["weights"]
    )
    assert table["active"] == table["total"] - table["embedding"] // 2 - 256 * 5  # without input embedding and norms
    assert sum(training["parts"].values()) == training["peak"]
    assert flops["forward"] == flops["forward_weights"] + flops["forward_attention"] == flops["training"] / 3
    small, large, unknown, here = report["devices"]
    assert (small["fits"], small["batch"], small["sequence_length"], small["context_length"]) == (
        False,
        0,
        0,
        0,
    )
    assert small["step_seconds"] is None
    assert large["fits"]
    assert large["sequence_length"] == large["context_length"] == 64
    assert large["step_seconds"] == pytest.approx(flops["step"] / (10e12 * 0.5))
    assert large["tokens_per_second"] == pytest.approx(64 / large["step_seconds"])
    read = report["generation"]["weights"] + report["generation"]["cache"]
    assert large["decode_tokens_per_second"] == pytest.approx(2 * 1000e9 / read)
    assert unknown["fits"]
    assert unknown["step_seconds"] is unknown["decode_tokens_per_second"] is None
    assert here["name"] == "here: cpu"


@pytest.mark.slow
def test_the_reported_limits_are_the_largest_that_fit(resolved: Resolve) -> None:
    memory = Memory(resolved("llama/4M", num_hidden_layers=2, max_position_embeddings=2048))
    fits = Fits(memory, rows=3, length=128, limit=2048, cache="dynamic")
    device = Device("d", RESERVE + 200_000_000, None, {}, None)
    rows = fits.max_rows(device)
    assert rows is not None
    assert memory.training(rows, 128).peak.bytes <= 200_000_000 < memory.training(rows + 1, 128).peak.bytes
    longest = fits.longest(device)
    assert memory.training(3, longest).peak.bytes <= 200_000_000 < memory.training(3, 2 * longest).peak.bytes
    assert fits.step_fits(device)
    tight = Device("d", RESERVE + memory.training(3, 128).peak.bytes - 1, None, {}, None)
    assert not fits.step_fits(tight)


def test_estimates_a_model_whose_tokenizer_is_on_the_hub(resolved: Resolve) -> None:
    model = Memory(resolved("llama/llama3.2-1B", num_hidden_layers=1)).model()
    assert model.config.vocab_size == 128256
    assert all(parameter.is_meta for parameter in model.parameters())
    with pytest.raises(TokenizerError):
        Memory(resolved("llama/4M", tokenizer="unknown/tokenizer")).model()


@pytest.mark.few(1, slow=2)
@pytest.mark.parametrize(
    ("dtype", "precision", "expected"),
    [(None, None, "fp32"), ("bfloat16", None, "bf16"), ("fp16", None, "fp16"), (None, "mixed", "mixed"),
     ("float32", "mixed", "mixed"), ("bf16", "bf16", "bf16"),
     ("float64", None, "fp64")],
)  # fmt: skip
def test_precision_follows_dtype(resolved: Resolve, devices: Path, dtype: str, precision: Any, expected: str) -> None:
    options = EstimateOptions(hardware=devices, sequence_length=8, context_length=8, precision=precision)
    report = estimate(resolved("llama/4M", dtype=dtype, **SHORT), options)
    assert report["setup"]["precision"] == expected
    width = {"bf16": 2, "fp16": 2, "fp64": 8}.get(expected, 4)
    assert report["training"]["weights"] == width * report["parameters"]["total"]


@pytest.mark.parametrize(
    ("dtype", "precision", "why"),
    [("bfloat16", "fp32", "contradict"), ("bfloat16", "mixed", "contradict"), ("float32", "bf16", "contradict"),
     ("float64", "fp32", "contradict"), ("float16", "bf16", "contradict")],
)  # fmt: skip
def test_refuses_a_contradiction(resolved: Resolve, devices: Path, dtype: str, precision: Any, why: str) -> None:
    with pytest.raises(BuildError, match=why):
        estimate(resolved("llama/4M", dtype=dtype), EstimateOptions(hardware=devices, precision=precision))


def test_notes_long_sequences_and_attention_kernels(resolved: Resolve, devices: Path) -> None:
    options = EstimateOptions(hardware=devices, sequence_length=65, context_length=8)
    notes = estimate(resolved("llama/4M", **SHORT, attn_implementation="flex_attention"), options)["notes"]
    assert any("65 tokens exceed the model's max_position_embeddings (64)" in note for note in notes)
    assert any("flex_attention is counted as sdpa's" in note for note in notes)


@pytest.mark.slow
def test_two_models_side_by_side(resolved: Resolve) -> None:
    options = EstimateOptions(sequence_length=16, context_length=16)
    models = [resolved("llama/4M"), resolved("llama/4M", hidden_size=128, head_dim=32), resolved("causal_lm/4M")]
    report = compare(models, options)
    assert json.loads(json.dumps(report))["models"] == ["llama/4M (1)", "llama/4M (2)", "causal_lm/4M"]
    assert report["options"]["hidden_size"] == [256, 128, 256]
    assert report["options"]["rms_norm_eps"][2] == "-"
    assert "num_hidden_layers" not in report["options"]
    assert report["totals"]["total"][0] == 4_434_176
    rows = {row["name"]: row for row in report["parameters"]}
    assert rows["model.layers.*.mlp.gate_proj.weight"]["layers"] == [4, 4, 0]
    assert rows["model.layers.*.mlp.gate_proj.weight"]["shapes"][2] is None
    for position, total in enumerate(report["totals"]["total"]):
        assert sum(row["elements"][position] for row in report["parameters"]) == total
    assert report["only"]["llama/4M (1)"] == []
    assert "model.layers.*.mlp.up_proj.bias" in report["only"]["causal_lm/4M"]
    alone = estimate(models[0], options)
    for group in ("training", "generation", "flops"):
        for name, values in report[group].items():
            assert values[0] == alone[group][name]
