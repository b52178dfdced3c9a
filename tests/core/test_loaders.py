"""The table of who loads a directory: each yes and each no with its reason."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from forgather_core.configurations import resolve
from forgather_core.construct import construct
from forgather_core.registry import Registry
from forgather_core.report import construction_report
from forgather_core.settings import settle

from .native_models import save_native

SMALL = {"hidden_size": 32, "num_hidden_layers": 2, "intermediate_size": 48, "tokenizer": "bytes"}


def table(definition: str, project: Path, **flags: Any) -> dict[str, tuple[bool, str]]:
    made = construct(settle(resolve(definition, Registry(), project), SMALL | flags), project=project)
    return {row["name"]: (row["loads"], row["how"]) for row in construction_report(made)["loaders"]}


@pytest.mark.few(3)
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


def test_alibi_is_no_servers(tmp_path: Path) -> None:
    assert "ALiBi" in table("deepone", tmp_path)["vLLM, transformers backend"][1]


def test_a_llama_with_a_window_is_told_what_it_is(tmp_path: Path) -> None:
    assert "is a mistral" in table("llama", tmp_path, sliding_window=8)["transformers, natively"][1]


def test_a_native_directory_loads_natively(tmp_path: Path) -> None:
    found = table("qwen3", tmp_path, native=True)
    assert found["transformers, natively"] == (True, "as Qwen3ForCausalLM, without trust_remote_code")
    assert found["vLLM, transformers backend"][0]
    loads, how = found["llama.cpp"]
    assert not loads and "'bytes'" in how  # a tokenizer that its converter has never seen


def test_llama_cpp_may_know_a_tokenizer_that_is_not_ours(tmp_path: Path) -> None:
    save_native("Llama", tmp_path / "theirs")
    assert table("llama", tmp_path, native=True, tokenizer=str(tmp_path / "theirs"))["llama.cpp"][0]
