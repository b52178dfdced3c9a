"""Errors name the typed value, and reports show the source of each value."""

from __future__ import annotations

from pathlib import Path

import pytest

from .conftest import LLAMA, Cli

BAD = {
    ("--hidden-size", "255"): "--hidden-size: num_attention_heads must divide hidden_size (255), got 4",
    ("--hidden-size", "252"): "--hidden-size: head_dim must be even for RoPE, got 63",
    ("--hidden-size", "255", "--num-hidden-layers", "3"): (
        "--hidden-size: num_attention_heads must divide hidden_size (255), got 4"
    ),
    ("--num-attention-heads", "3"): "--num-attention-heads must divide hidden_size (256), got 3",
    ("--num-attention-heads", "6", "--num-key-value-heads", "4", "--head-dim", "8"): (
        "--num-key-value-heads must divide num_attention_heads (6), got 4"
    ),
}


@pytest.mark.regression("P5")
@pytest.mark.parametrize("words", BAD, ids=" ".join)
def test_the_typed_value_is_blamed(cli: Cli, words: tuple[str, ...]) -> None:
    assert cli(*LLAMA, *words, "show").error.startswith(BAD[words])


@pytest.mark.regression("P5")
def test_the_highest_file_is_blamed(cli: Cli) -> None:
    Path("exp.yaml").write_text("extends: llama/4M\nnum_hidden_layers: 3\nhidden_size: 255\n")
    error = cli("-t", "exp.yaml", "model", "show").error
    assert error.startswith("exp.yaml:3:1: hidden_size: num_attention_heads must divide hidden_size (255), got 4")
    assert cli("-t", "exp.yaml", "model", "--hidden-size", "254", "show").error.startswith("--hidden-size: num_att")


@pytest.mark.slow
@pytest.mark.regression("P5")
def test_a_value_of_an_earlier_run_is_of_the_directory(cli: Cli) -> None:
    cli(*LLAMA, "--output-dir", "m", "--hidden-size", "128", "construct")
    options = cli(*LLAMA, "--output-dir", "m", "--keep", "construct", "--json").json["options"]
    assert options["hidden_size"] == {"value": 128, "origin": "the directory"}
    assert options["num_hidden_layers"]["origin"] == "llama/4M"
    assert not [name for name, item in options.items() if item["origin"].startswith("--")]


@pytest.mark.regression("P6")
def test_the_memory_block_adds_up(cli: Cli) -> None:
    page = cli(*LLAMA, "construct").out.partition("Peak memory of a training step")[2].partition("\n\n")[0]
    sizes = {"B": 2**-20, "KiB": 2**-10, "MiB": 1.0, "GiB": 2.0**10}
    rows = {line.split("  ")[0]: line.split()[-2:] for line in page.splitlines()[1:] if "peak" not in line}
    peak = float(next(line for line in page.splitlines()[1:] if line.startswith("peak")).split()[1])
    assert sum(float(number) * sizes[unit] for number, unit in rows.values()) == pytest.approx(
        peak, abs=0.05 * len(rows) + 0.05
    )
