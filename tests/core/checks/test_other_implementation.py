"""other-implementation compares a model with another implementation that has the same weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from transformers import LlamaConfig

from forgather_core.checks import CHECKS, choose, verify
from forgather_core.checks.against.find import find_counterpart
from forgather_core.checks.shared.scope import Scope
from forgather_core.definitions.check import failure_text
from forgather_core.errors import CheckError, ForgatherError
from tests.support.remote_code import SMALL, Edit, write_remote_code

from .planted import written

SCALE = ("self.scaling = self.head_dim**-0.5", "self.scaling = (self.head_dim + 1) ** -0.5")
DOWN = "down_proj = self.down_proj(self.act_fn(self.gate_proj(x)) * self.up_proj(x))"
EDITS: dict[str, tuple[Edit, str]] = {
    "scale": (SCALE, "wrong in the plain call"),
    "activation": ((DOWN, DOWN.replace("self.act_fn", "torch.tanh")), "wrong in the plain call"),
    "halves": (("cat((-x2, x1)", "cat((x2, -x1)"), "wrong in the plain call"),
    "gradient": (
        ("hidden_states = residual + hidden_states", "hidden_states = residual.detach() + hidden_states"),
        "grad",
    ),
    "norm in bfloat16": (
        ("hidden_states = hidden_states.to(torch.float32)\n", "hidden_states = hidden_states.to(input_dtype)\n"),
        "bfloat16: logits (in float32 they are equal to those of LlamaForCausalLM of transformers)",
    ),
}


def row_of(directory: Path, against: str | None = None, case: str = "gradients=on") -> dict[str, Any]:
    scope = Scope(quick=True, case=case, against=against, trust_remote_code=True)
    (row,) = verify(directory, choose(CHECKS, ["other-implementation"]), scope=scope)["checks"]
    return row


def failures_of(row: dict[str, Any]) -> str:
    return " | ".join(failure_text(one) for one in row["measured"] if not one["holds"])


def test_a_copy_of_a_class_of_transformers_is_compared_with_it(tmp_path: Path) -> None:
    row = row_of(write_remote_code("llama", tmp_path / "copied", **SMALL))
    assert row["result"] == "passed", failures_of(row)
    assert row["details"]["other implementation"] == "LlamaForCausalLM of transformers"
    assert len(row["measured"]) > 20  # initial weights, rounding, the case


@pytest.mark.parametrize("name", EDITS)
def test_mistakes_in_what_the_model_is_are_found(name: str, tmp_path: Path) -> None:
    edit, words = EDITS[name]
    row = row_of(write_remote_code("llama", tmp_path / f"copied_{list(EDITS).index(name)}", [edit], **SMALL))
    assert row["result"] == "failed"
    assert words in failures_of(row)


def test_other_initial_weights_are_found(tmp_path: Path) -> None:
    directory = write_remote_code("gpt2", tmp_path / "copied")
    other = write_remote_code("gpt2", tmp_path / "other", initializer_range=0.03)
    row = row_of(directory, against=str(other))
    assert "as " in failures_of(row) and "expected std 0.03" in failures_of(row)


def test_weights_that_differ_on_disk_are_converted(tmp_path: Path) -> None:
    sizes = {"num_local_experts": 4, "num_key_value_heads": 2}
    row = row_of(write_remote_code("mixtral", tmp_path / "experts", **SMALL, **sizes))
    assert row["result"] == "passed", failures_of(row)


def test_parameters_that_only_one_has_are_named(tmp_path: Path) -> None:
    row = row_of(write_remote_code("llama", tmp_path / "copied", **SMALL), against="qwen3")
    assert "parameters of Qwen3ForCausalLM of transformers that the model does not have" in failures_of(row)
    assert "k_norm.weight" in failures_of(row)


def test_a_definition_agrees_with_the_class_that_is_named(tmp_path: Path) -> None:
    assert row_of(written("llama", tmp_path), against="llama", case="padding=left,mask=2d")["result"] == "passed"


def test_a_definition_is_not_compared_without_a_request(tmp_path: Path) -> None:
    row = row_of(written("llama", tmp_path))
    assert (row["result"], row["reason"]) == (
        "skipped",
        "without --against; native-parity and reference-parity compare other implementations",
    )


def test_the_report_says_that_no_reference_is_known(tmp_path: Path) -> None:
    directory = write_remote_code("llama", tmp_path / "unknown", named=False, **SMALL)
    row = row_of(directory)
    assert row["result"] == "skipped"
    assert "a mistake in what the model is" in row["reason"]
    assert "--against llama" in row["reason"]


@pytest.mark.parametrize(
    ("other", "words"),
    [("lama", "Did you mean 'llama'"), ("/", "neither a model directory nor"), ("BertModel", "neither")],
)
def test_a_wrong_name_is_an_error(other: str, words: str, tmp_path: Path) -> None:
    with pytest.raises(CheckError, match=words):
        row_of(write_remote_code("llama", tmp_path / "copied", **SMALL), against=other)


def test_code_of_others_runs_on_request_only(tmp_path: Path) -> None:
    directory = write_remote_code("llama", tmp_path / "copied", [("import torch\n", "raise SystemExit\n")], **SMALL)
    with pytest.raises(CheckError, match="--trust-remote-code"):
        verify(directory, choose(CHECKS, ["causality"]))
    with pytest.raises(CheckError, match="--against has Python code of its own"):
        scope = Scope(against=str(directory))
        verify(written("llama", tmp_path), choose(CHECKS, ["other-implementation"]), scope=scope)


@pytest.mark.parametrize(
    ("name", "kind"),
    [("llama", "llama"), ("LlamaForCausalLM", "llama"), ("gpt2", "gpt2"), ("Llama4ForCausalLM", "llama4_text")],
)
def test_a_class_has_the_type_of_its_configuration(name: str, kind: str) -> None:
    assert find_counterpart(name, trusted=False).model_type == kind


def test_code_of_a_tokenizer_runs_on_request_only(tmp_path: Path) -> None:
    LlamaConfig(architectures=["LlamaForCausalLM"]).save_pretrained(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text('{"auto_map": {"AutoTokenizer": ["code.Tokenizer", null]}}')
    with pytest.raises(CheckError, match="--trust-remote-code"):
        verify(tmp_path, choose(CHECKS, ["tokenizer"]))


def test_an_empty_manifest_is_no_reason_to_trust_code(tmp_path: Path) -> None:
    directory = write_remote_code("llama", tmp_path / "copied", **SMALL)
    (directory / "forgather.json").write_text("")
    with pytest.raises(ForgatherError, match="cannot be read"):
        verify(directory, choose(CHECKS, ["causality"]))


def test_a_model_of_another_architecture_with_a_known_name_is_not_compared_with_it(tmp_path: Path) -> None:
    edit = (
        "self.norm = LlamaRMSNorm(config.hidden_size",
        "self.extra = nn.Linear(4, 4)\n        self.norm = LlamaRMSNorm(config.hidden_size",
    )
    row = row_of(write_remote_code("llama", tmp_path / "other", [edit], **SMALL))
    assert row["result"] == "skipped"
    assert "has other parameters" in row["reason"]
