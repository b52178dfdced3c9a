"""`estimate` and `compare`: output and errors."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from .conftest import LLAMA, Cli

SMALL = (
    "--sequence-length",
    "32",
    "--context-length",
    "32",
    "--num-hidden-layers",
    "2",
    "--max-position-embeddings",
    "64",
)


@pytest.fixture
def hardware() -> str:
    Path("devices.yaml").write_text("Mine: {memory: 2, bandwidth: 100, flops: {fp32: 1, bf16: 2}}\n")
    return "--hardware=devices.yaml"


def test_an_estimate_writes_nothing_and_shows_all_sections(cli: Cli, hardware: str) -> None:
    done = cli(*LLAMA, *SMALL, hardware, "estimate")
    assert (done.code, done.err) == (0, "")
    for part in (
        "Parameters",
        "Peak memory of a training step",
        "Memory of generation",
        "FLOPs/token",
        "Fits on",
        "Mine",
    ):
        assert part in done.out
    assert "########" in done.out
    assert [p.name for p in Path().iterdir()] == ["devices.yaml"]


def test_a_device_of_a_mesh_has_communication(cli: Cli) -> None:
    Path("linked.yaml").write_text("Linked: {memory: 2, flops: {fp32: 1}, node: 2, link: 100, network: 10}\n")
    words = (*LLAMA, *SMALL, "--num-hidden-layers", "1", "--hardware=linked.yaml")
    done = cli(*words, "estimate", "--parallel", "fsdp=2,tp=2", "-o", "e.html")
    assert (done.code, "Communication" in Path("e.html").read_text()) == (0, True)
    done = cli(*words, "estimate", "--parallel", "fsdp=2,tp=2")
    assert (done.code, done.err) == (0, "")
    for part in ("fsdp=2,tp=2: 4 devices", "gathered weights", "reduce-scatter", "wire, tp", "not modelled"):
        assert part in done.out
    _, _, communication = done.out.partition("Communication")
    table, _, _ = communication.partition("Fits on")
    assert all(len(line) <= 80 for line in table.splitlines())


@pytest.mark.parametrize(
    ("mesh", "text"),
    [
        ("fsdp", "--parallel must give the number of processes of fsdp; got 'fsdp': use fsdp=2, for example"),
        ("tp=3", "--parallel: tp=3 cannot split 4 heads: use tp=1, tp=2 or tp=4"),
        ("pp=2", "--parallel: expected ddp, fsdp, tp, or sizes such as fsdp=2,tp=2; got 'pp=2'"),
    ],
)
def test_an_impossible_mesh_is_refused_in_one_line(cli: Cli, mesh: str, text: str) -> None:
    done = cli(*LLAMA, "estimate", "--parallel", mesh)
    assert done.code == 2
    assert text in done.err
    assert done.err.count("\n") == 1


@pytest.mark.slow
def test_options_of_the_step_and_of_the_build_count(cli: Cli, hardware: str) -> None:
    def training(*words: str) -> dict[str, int]:
        return dict(
            cli(*LLAMA, *SMALL, "--num-hidden-layers", "1", hardware, *words, "estimate", "--json").json["training"]
        )

    plain = training()
    assert training("--batch-size", "8")["activations"] == pytest.approx(4 * plain["activations"], rel=0.01)
    assert training("--gradient-checkpointing")["activations"] < plain["activations"]
    assert training("--optimizer", "sgd")["optimizer_state"] == 0
    assert training("--precision", "bf16")["weights"] == plain["weights"] / 2
    assert training("--dtype", "bfloat16")["weights"] == plain["weights"] / 2
    assert training("--attn-implementation", "eager")["activations"] > plain["activations"]


@pytest.mark.slow
def test_an_estimate_is_written_to_a_file(cli: Cli, hardware: str) -> None:
    shallow = (*LLAMA, *SMALL, "--num-hidden-layers", "1", hardware)
    assert cli(*shallow, "estimate", "-o", "e.html").code == 0
    assert "Fits on" in Path("e.html").read_text()
    assert cli(*shallow, "estimate", "-o", "e.json").code == 0
    assert json.loads(Path("e.json").read_text())["devices"][0]["name"] == "Mine"


@pytest.mark.slow
def test_models_are_compared(cli: Cli) -> None:
    words = ("--sequence-length", "16", "--context-length", "16")
    done = cli("model", *words, "compare", "llama/4M", "causal_lm/4M")
    assert (done.code, done.err) == (0, "")
    assert "only causal_lm/4M has" in done.out
    report = cli("-t", "llama/4M", "model", *words, "--hidden-size", "128", "compare", "llama/4M", "--json").json
    assert report["models"] == ["llama/4M (1)", "llama/4M (2)"]
    assert report["options"]["hidden_size"] == [128, 256]


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (("model", "estimate"), "choose a model definition"),
        (("model", "compare", "llama/4M"), "compare requires two models"),
        (("model", "compare"), "MODEL is missing: add it, as in forgather model compare MODEL..."),
        (("model", "compare", "llama/4M", "lama"), "lama"),
        (("model", "--hidden-size", "3", "compare", "llama/4M", "mistral/4M"), "--hidden-size is an option of"),
        ((*LLAMA, "estimate", "--precision", "fp8"), "--precision"),
        ((*LLAMA, "estimate", "--precision", "mixed", "--dtype", "bfloat16"), "contradict"),
        ((*LLAMA, "estimate", "--mfu", "0"), "--mfu must be above 0, got 0"),
        ((*LLAMA, "estimate", "--mfu", "2"), "--mfu must be at most 1, got 2"),
        ((*LLAMA, "estimate", "--context-length", "1"), "--context-length must be at least 2, got 1"),
        ((*LLAMA, "estimate", "--hardware", "none.yaml"), "--hardware: none.yaml cannot be read"),
        ((*LLAMA, "estimate", "--hidden-size", "3"), "hidden_size"),
    ],
)
def test_wrong_input_gets_one_line(cli: Cli, words: tuple[str, ...], why: str) -> None:
    assert why in cli(*words).error
