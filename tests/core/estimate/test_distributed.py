"""Estimates of a device of a mesh: memory and bytes on the wire equal counts by hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from forgather_core.errors import BuildError, ConfigurationError
from forgather_core.estimate import Memory, estimate
from forgather_core.estimate.collectives import summed
from forgather_core.estimate.distributed import requested_mesh
from forgather_core.estimate.timeline import (
    ACTIVATIONS,
    CACHE,
    GATHERED,
    GRADIENTS,
    OPTIMIZER,
    REDUCED,
    WEIGHTS,
    Timeline,
)
from forgather_core.options.command_options import EstimateOptions

from .conftest import DEFINITIONS, Resolve

HIDDEN, LAYERS, VOCAB, ROWS, LENGTH = 32, 2, 2000, 2, 8
SMALL: dict[str, Any] = {"hidden_size": HIDDEN, "num_hidden_layers": LAYERS, "vocab_size": VOCAB}
SMALL |= {"intermediate_size": 48, "num_attention_heads": 4, "num_key_value_heads": 2, "tie_word_embeddings": False}
LAYER = HIDDEN * (2 * HIDDEN + 2 * HIDDEN // 2 + 3 * 48 + 2)  # q, o; k, v; gate, up, down; two norms
TABLE, NORM = VOCAB * HIDDEN, HIDDEN
TOTAL = LAYERS * LAYER + 2 * TABLE + NORM


def trained(resolved: Resolve, mesh: str | None, name: str = "llama", **how: Any) -> Timeline:
    settings = resolved(name, **(SMALL if name == "llama" else {"num_hidden_layers": LAYERS}), parallel=mesh)
    with requested_mesh(settings) as found:
        return Memory(settings, device_type="cpu", mesh=found, **how).training(ROWS, LENGTH)


def wire(step: Timeline) -> dict[tuple[str, str, str], tuple[int, float, float]]:
    return {
        (row["axis"], row["kind"], row["phase"]): (row["calls"], row["payload"], row["bytes"])
        for row in summed(step.collectives)
    }


def test_fsdp_halves_what_is_held_and_gathers_each_layer(resolved: Resolve) -> None:
    step = trained(resolved, "fsdp=2")
    assert step.held[WEIGHTS] == 4 * TOTAL / 2
    assert step.held[OPTIMIZER] == pytest.approx(2 * step.held[WEIGHTS], rel=0.01)
    assert step.peak_of(GATHERED) >= 4 * (LAYER + TABLE)
    assert step.peak_of(GRADIENTS) >= 4 * TOTAL / 2
    assert step.peak_of(REDUCED) > 0
    tail = TABLE + NORM  # stays gathered between forward and backward
    assert wire(step) == {
        ("fsdp", "all-gather", "forward"): (LAYERS + 3, 4 * TOTAL, 4 * TOTAL / 2),
        ("fsdp", "all-gather", "backward"): (LAYERS + 1, 4 * (TOTAL - tail), 4 * (TOTAL - tail) / 2),
        ("fsdp", "reduce-scatter", "backward"): (LAYERS + 3, 4 * TOTAL, 4 * TOTAL / 2),
    }


def test_mixed_precision_gathers_16_bits_and_keeps_no_copy_of_all_weights(resolved: Resolve) -> None:
    step = trained(resolved, "fsdp=2", precision="mixed")
    assert step.held[WEIGHTS] == 4 * TOTAL / 2
    rows = {key: payload for key, (_, payload, _) in wire(step).items()}
    tail = TABLE + NORM
    assert rows == {
        ("fsdp", "all-gather", "forward"): 2 * TOTAL,
        ("fsdp", "all-gather", "backward"): 2 * (TOTAL - tail),
        ("fsdp", "reduce-scatter", "backward"): 4 * TOTAL,
    }

    def activations(layers: int) -> int:
        settings = resolved("llama", **SMALL | {"num_hidden_layers": layers}, parallel="fsdp=2")
        with requested_mesh(settings) as found:
            memory = Memory(settings, device_type="cpu", mesh=found, precision="mixed", checkpointing=True)
            return memory.training(1, 1).after("forward")[ACTIVATIONS]

    assert activations(4) - activations(2) < 2 * LAYER  # autocast alone would keep the weights of each layer


def test_more_devices_hold_less_and_exchange_more(resolved: Resolve) -> None:
    step = trained(resolved, "fsdp=4")
    assert step.held[WEIGHTS] == 4 * TOTAL / 4
    assert wire(step)["fsdp", "reduce-scatter", "backward"][2] == 4 * TOTAL * 3 / 4


def test_ddp_holds_everything_and_sums_the_gradients(resolved: Resolve) -> None:
    step = trained(resolved, "ddp=2")
    assert step.held[WEIGHTS] == 4 * TOTAL
    assert wire(step) == {("ddp", "all-reduce", "backward"): (LAYERS + 3, 4 * TOTAL, 4 * TOTAL)}


def test_tp_splits_layers_and_sums_hidden_states(resolved: Resolve) -> None:
    step = trained(resolved, "tp=2")
    norms = NORM * (2 * LAYERS + 1)
    assert step.held[WEIGHTS] == 4 * ((TOTAL - norms) / 2 + norms)
    hidden, logits = 4 * ROWS * LENGTH * HIDDEN, 4 * ROWS * LENGTH * VOCAB
    forward, backward = 1 + 2 * LAYERS, 1 + 5 * LAYERS  # backward: the inputs of q, k, v, gate, up and of the head
    assert wire(step) == {
        ("tp", "all-reduce", "forward"): (forward, forward * hidden, forward * hidden),
        ("tp", "all-gather", "forward"): (1, logits, logits / 2),
        ("tp", "all-reduce", "backward"): (backward, backward * hidden, backward * hidden),
    }


def test_axes_combine(resolved: Resolve) -> None:
    step = trained(resolved, "ddp=2,fsdp=2,tp=2")
    norms = NORM * (2 * LAYERS + 1)
    part = (TOTAL - norms) / 2 + norms
    assert step.held[WEIGHTS] == 4 * part / 2
    rows = wire(step)
    assert rows["fsdp", "reduce-scatter", "backward"][1] == 4 * part
    assert rows["ddp", "all-reduce", "backward"][1] == 4 * part / 2
    assert rows["tp", "all-reduce", "forward"][0] == 1 + 2 * LAYERS


def test_tp_divides_the_cache(resolved: Resolve) -> None:
    def cache(mesh: str | None) -> int:
        settings = resolved("llama", **SMALL, parallel=mesh)
        with requested_mesh(settings) as found:
            return Memory(settings, mesh=found).generation(ROWS, LENGTH).after("decode")[CACHE]

    assert cache("tp=2") == cache(None) / 2
    assert cache("fsdp=2") == cache(None)


@pytest.mark.few(2, slow=6)
@pytest.mark.parametrize("name", DEFINITIONS)
@pytest.mark.parametrize("mesh", ["fsdp=2", "ddp=2", "ddp=2,fsdp=2"])
def test_every_definition_can_be_sharded(resolved: Resolve, name: str, mesh: str) -> None:
    whole, part = trained(resolved, None, name), trained(resolved, mesh, name)
    shards = 2 if "fsdp" in mesh else 1
    assert part.held[WEIGHTS] == pytest.approx(whole.held[WEIGHTS] / shards, rel=0.01)
    assert sum(part.flops.values()) == sum(whole.flops.values())
    assert not whole.collectives


@pytest.mark.parametrize("change", [{"optimizer": "adam8bit"}, {"checkpointing": True}, {"precision": "mixed"}])
def test_the_options_of_a_step_apply_to_a_mesh(resolved: Resolve, change: dict[str, Any]) -> None:
    step = trained(resolved, "fsdp=2,tp=2", **change)
    assert {row["axis"] for row in summed(step.collectives)} == {"fsdp", "tp"}
    assert step.peak.bytes > step.held_bytes


def test_batches_are_extrapolated_on_a_mesh(resolved: Resolve) -> None:
    settings = resolved("llama", **SMALL, parallel="fsdp=2,tp=2")
    with requested_mesh(settings) as mesh:
        memory = Memory(settings, device_type="cpu", mesh=mesh)
        batches = memory.batches(LENGTH)
        assert batches.is_linear
        rows = batches.least_rows + 5
        assert batches.peak(rows) == memory.training(rows, LENGTH).peak.bytes


def test_a_report_has_the_mesh(resolved: Resolve, tmp_path: Path) -> None:
    file = tmp_path / "devices.yaml"
    file.write_text(
        "Linked: {memory: 100, bandwidth: 1000, flops: {fp32: 10}, node: 2, link: 100, network: 10}\n"
        "Alone: {memory: 101, flops: {fp32: 10}}\n"
        "Small: {memory: 0.5, flops: {fp32: 10}, node: 8, link: 100}\n"
    )
    short = SMALL | {"max_position_embeddings": 32}
    options = EstimateOptions(hardware=file, batch_size=ROWS, sequence_length=32, context_length=32, mfu=0.5)
    plain = json.loads(json.dumps(estimate(resolved("llama", **short), options)))
    report = json.loads(json.dumps(estimate(resolved("llama", **short, parallel="fsdp=2,tp=2"), options)))
    parallel = report["parallel"]
    assert (parallel["mesh"], parallel["devices"], parallel["rows"]) == ("fsdp=2,tp=2", 4, 2 * ROWS)
    assert parallel["bytes"] == sum(row["bytes"] for row in parallel["collectives"])
    assert (report["parameters"], report["flops"]) == (plain["parameters"], plain["flops"])
    assert report["training"]["weights"] < plain["training"]["weights"] / 3
    assert sum(report["training"]["parts"].values()) == report["training"]["peak"]
    assert "parallel" not in plain
    assert "wire_seconds" not in plain["devices"][0]
    small, linked, alone, _ = report["devices"]
    tp = sum(row["bytes"] for row in parallel["collectives"] if row["axis"] == "tp")
    assert linked["wire_seconds"] == pytest.approx({"fsdp": (parallel["bytes"] - tp) / 10e9, "tp": tp / 100e9})
    assert linked["step_seconds"] == pytest.approx(parallel["flops"] / 5e12)
    seconds = linked["step_seconds"] + sum(linked["wire_seconds"].values())
    assert linked["tokens_per_second"] == pytest.approx(2 * ROWS * 32 / seconds)
    assert linked["decode_tokens_per_second"] is None  # FSDP gathers the weights for each token
    assert alone["fits"]
    assert alone["wire_seconds"] is alone["tokens_per_second"] is None
    assert not small["fits"]
    assert small["wire_seconds"] is None


@pytest.mark.parametrize(
    ("mesh", "error", "text"),
    [
        ("fsdp", ConfigurationError, "--parallel must give the number of processes of fsdp"),
        ("tp=3", BuildError, "--parallel: tp=3 cannot split 4 heads"),
        ("tp=4", BuildError, "--parallel: tp=4 cannot split 2 key/value heads"),
    ],
)
def test_refuses_what_cannot_be_split(resolved: Resolve, mesh: str, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text) as raised, requested_mesh(resolved("llama", **SMALL, parallel=mesh)):
        pass
    assert "\n" not in str(raised.value)


def test_a_single_device_is_no_mesh(resolved: Resolve) -> None:
    with requested_mesh(resolved("llama", **SMALL, parallel="fsdp=1")) as mesh:
        assert mesh is None
    assert not torch.distributed.is_initialized()
