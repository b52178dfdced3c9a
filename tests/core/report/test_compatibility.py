"""The table of tools that load a directory, each with the reason."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
from torch import nn

from forgather_core.commands.construct import construct
from forgather_core.definitions.registry import Registry
from forgather_core.report.compatibility import compatibility
from forgather_core.report.construction import construction_report
from forgather_core.settings.layers import find_configuration
from forgather_core.settings.resolve import resolve
from tests.support.native_models import save_native

SMALL = {"hidden_size": 32, "num_hidden_layers": 2, "intermediate_size": 48, "tokenizer": "bytes"}


def table(definition: str, project: Path, **flags: Any) -> dict[str, tuple[bool, str]]:
    made = construct(resolve(find_configuration(definition, Registry(), project), SMALL | flags), project=project)
    return {row["name"]: (row["loads"], row["how"]) for row in construction_report(made)["compatibility"]}


@pytest.mark.few(1)
@pytest.mark.parametrize("definition", ["causal_lm", "deepone", "llama", "mistral", "qwen3", "single_head"])
def test_every_directory_loads_with_remote_code_and_nowhere_by_itself(definition: str, tmp_path: Path) -> None:
    found = table(definition, tmp_path)
    assert list(found) == ["transformers", "transformers, natively", "vLLM, transformers backend", "llama.cpp"]
    assert found["transformers"] == (True, "with trust_remote_code=True")
    assert not found["transformers, natively"][0]
    has_class = definition in ("llama", "mistral", "qwen3")
    assert ("build it with --native" in found["transformers, natively"][1]) == has_class
    assert found["vLLM, transformers backend"][0] == (definition not in ("deepone", "single_head"))
    assert not found["llama.cpp"][0]


def test_alibi_is_not_supported_by_vllm(tmp_path: Path) -> None:
    assert "ALiBi" in table("deepone", tmp_path)["vLLM, transformers backend"][1]


def test_a_llama_with_a_window_is_reported_as_a_mistral(tmp_path: Path) -> None:
    assert "mistral does" in table("llama", tmp_path, sliding_window=8)["transformers, natively"][1]


def test_a_native_directory_loads_natively(tmp_path: Path) -> None:
    found = table("qwen3", tmp_path, native=True)
    assert found["transformers, natively"] == (True, "as Qwen3ForCausalLM, without trust_remote_code")
    assert found["vLLM, transformers backend"][0]
    loads, how = found["llama.cpp"]
    assert not loads and "with merges, and 'bytes' has none: use bpe-2k" in how


def byte_pairs(pattern: str, merges: bool = True) -> dict[str, Any]:
    """Return the parts of a tokenizer.json that determine support by the llama.cpp converter."""
    split = {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated"}
    pre_tokenizer = {"type": "Sequence", "pretokenizers": [split, {"type": "ByteLevel"}]}
    return {"pre_tokenizer": pre_tokenizer, "model": {"type": "BPE", "merges": [["a", "b"]] if merges else []}}


FORMER = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
TOKENIZERS = {
    "another pattern": (byte_pairs("a"), True, "if its converter knows the tokenizer"),
    "0.1.0": (
        byte_pairs(FORMER),
        False,
        "trained by an earlier version of Forgather: use a shipped tokenizer or train a new one",
    ),
    "no merges": (byte_pairs("a", merges=False), False, "'mine' has none: use bpe-2k or bpe-8k"),
    "unigram": ({"model": {"type": "Unigram"}}, False, "got 'mine' (Unigram): use bpe-2k or bpe-8k"),
    "no pattern": ({"model": {"type": "BPE", "merges": ["a b"]}}, True, "if its converter knows the tokenizer"),
    "nothing": ({}, True, "if its converter knows the tokenizer"),
    "malformed": ({"model": 3, "pre_tokenizer": {"pretokenizers": 5}}, True, "if its converter knows"),
    "malformed pattern": ({"model": {"type": "BPE", "merges": [1]}, "pre_tokenizer": {"pretokenizers": 5}}, True, ""),
}


@pytest.mark.parametrize("case", TOKENIZERS)
def test_llama_cpp_is_claimed_for_tokenizers_that_can_be_converted(case: str, llama: Any, tmp_path: Path) -> None:
    content, loads, reason = TOKENIZERS[case]
    (tmp_path / "tokenizer.json").write_text(json.dumps(content))
    row = compatibility(llama.resolved, llama.model, "LlamaForCausalLM", "mine", tmp_path)[-1]
    assert (row["loads"], reason in row["how"]) == (loads, True), row["how"]
    (tmp_path / "tokenizer.model").touch()  # preferred by the converter
    assert compatibility(llama.resolved, llama.model, "LlamaForCausalLM", "mine", tmp_path)[-1]["loads"]


@pytest.mark.regression("E11")
@pytest.mark.parametrize("name", ["bpe-2k", "bpe-8k"])
def test_the_report_names_the_line_missing_in_the_converter(name: str, llama: Any) -> None:
    row = compatibility(llama.resolved, llama.model, "LlamaForCausalLM", name)[-1]
    assert (
        row["loads"] and 'chkhsh: add a line for that hash to get_vocab_base_pre, with res = "llama-bpe"' in row["how"]
    )


def test_llama_cpp_may_support_a_foreign_tokenizer(tmp_path: Path) -> None:
    save_native("Llama", tmp_path / "original")
    assert table("llama", tmp_path, native=True, tokenizer=str(tmp_path / "original"))["llama.cpp"][0]


def vllm_of(model: Any, resolved: Any) -> tuple[bool, str]:
    """Return the row of vLLM."""
    row = next(row for row in compatibility(resolved, model, None, "bytes") if row["name"].startswith("vLLM"))
    return row["loads"], row["how"]


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Any:
    project = tmp_path_factory.mktemp("llama")
    return construct(resolve(find_configuration("llama", Registry(), project), SMALL), project=project)


def linear_attention(model: Any) -> None:
    model.config.layer_types = ["full_attention", "linear_attention"]


def recurrence(model: Any) -> None:
    model.model.layers[1].self_attn = nn.GRU(32, 32)


def recurrence_beside_attention(model: Any) -> None:
    model.model.layers[1].short_convolution = nn.Conv1d(32, 32, 4, groups=32)


def another_attention(model: Any) -> None:
    model.model.layers[0].self_attn = nn.MultiheadAttention(32, 4)


def two_attentions_in_a_layer(model: Any) -> None:
    model.model.layers[1].second = copy.deepcopy(model.model.layers[1].self_attn)


def one_index_for_two_layers(model: Any) -> None:
    model.model.layers[1].self_attn.layer_idx = 0


def convolution_before_the_layers(model: Any) -> None:
    model.model.convolution = nn.Conv1d(32, 32, 4, groups=32)


def attention_after_the_layers(model: Any) -> None:
    model.attention = copy.deepcopy(model.model.layers[1].self_attn)


def no_layers(model: Any) -> None:
    model.model.layers = nn.ModuleList()


STATEFUL = {
    linear_attention: "linear_attention",
    recurrence: "GRU",
    recurrence_beside_attention: "Conv1d",
    another_attention: "SelfAttention",
    two_attentions_in_a_layer: "got 2",
    one_index_for_two_layers: "got one with layer_idx 0",
    convolution_before_the_layers: "model.convolution (Conv1d) is outside the layers",
    attention_after_the_layers: "attention (Attention) is outside the layers",
    no_layers: "no list of layers",
}


@pytest.mark.regression("R13")
@pytest.mark.parametrize("change", STATEFUL, ids=lambda change: change.__name__)
def test_vllm_is_claimed_only_for_layers_of_attention(change: Any, llama: Any) -> None:
    model = copy.deepcopy(llama.model)
    assert vllm_of(model, llama.resolved)[0]
    change(model)
    loads, how = vllm_of(model, llama.resolved)
    assert not loads and STATEFUL[change] in how


@pytest.mark.regression("R13")
def test_support_for_an_unknown_native_class_is_not_claimed(llama: Any) -> None:
    found = {row["name"]: row for row in compatibility(llama.resolved, llama.model, "SomeNewForCausalLM", "mine")}
    assert found["transformers, natively"]["loads"]
    assert not found["vLLM, transformers backend"]["loads"] and not found["llama.cpp"]["loads"]


@pytest.mark.regression("R13")
@pytest.mark.parametrize(
    ("name", "value"),
    [("sliding_window", 8), ("rope_parameters", {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0})],
)
def test_llama_cpp_is_claimed_only_for_supported_configurations(name: str, value: Any, llama: Any) -> None:
    model = copy.deepcopy(llama.model)
    setattr(model.config, name, value)
    row = compatibility(llama.resolved, model, "MistralForCausalLM", "mine")[-1]
    assert not row["loads"] and name.partition("_")[0] in row["how"].lower()
