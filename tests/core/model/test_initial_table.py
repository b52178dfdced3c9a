"""`show --init`: the table comes from the code, is complete, and matches the constructed weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from torch import nn

from forgather_core.commands.construct import construct
from forgather_core.definitions.registry import Registry
from forgather_core.errors import DefinitionError
from forgather_core.model.initial_table import initial_table
from forgather_core.settings.layers import find_configuration
from forgather_core.settings.resolve import resolve
from forgather_core.settings.resolved_model import ResolvedModel

SMALL = {"hidden_size": 128, "num_hidden_layers": 2, "intermediate_size": 192, "tokenizer": "bpe-2k"}


def resolved(definition: str, **flags: Any) -> ResolvedModel:
    return resolve(find_configuration(definition, Registry(), Path()), SMALL | flags)


@pytest.mark.few(3)
@pytest.mark.parametrize("tied", [False, True], ids=["untied", "tied"])
@pytest.mark.parametrize("definition", ["causal_lm", "deepone", "llama", "mistral", "qwen3", "single_head"])
def test_table_matches_the_weights(definition: str, tied: bool, tmp_path: Path) -> None:
    settings = resolved(definition, tie_word_embeddings=tied, device="cpu")
    rows = {row["weight"]: row for row in initial_table(settings)}
    seen = dict.fromkeys(rows, 0)
    for name, parameter in construct(settings, project=tmp_path).model.named_parameters():
        kind = ".".join("*" if part.isdigit() else part for part in name.split("."))
        row = rows[kind]
        seen[kind] += 1
        assert row["shape"] == tuple(parameter.shape)
        values = parameter.detach().double()
        if kind.endswith("embed_tokens.weight"):
            values = values[2:]  # without padding
        assert values.std(correction=0).item() == pytest.approx(row["std"], rel=0.03, abs=1e-9), name
    assert seen == {kind: row["count"] for kind, row in rows.items()}
    assert ("lm_head.weight" in rows) != tied


def test_rows_follow_the_table_and_show_frozen_weights() -> None:
    rows = initial_table(resolved("deepone", alibi_trainable=False))
    patterns = list(dict.fromkeys(row["pattern"] for row in rows))
    assert patterns == ["slopes", "norm", "(q|k)_proj", "(v|o|gate|up|down)_proj", "embed_tokens", "lm_head"]
    assert [row["weight"] for row in rows if not row["trainable"]] == ["model.layers.*.self_attn.alibi.slopes"]


def test_a_weight_without_a_row_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    from forgather_llama.modeling_llama import LlamaModel

    post_init = LlamaModel.post_init

    def larger(self: Any) -> None:
        self.extra = nn.Parameter(self.norm.weight.clone())
        post_init(self)

    monkeypatch.setattr(LlamaModel, "post_init", larger)
    with pytest.raises(DefinitionError, match=r"of 'llama' matches 'model\.extra'"):
        initial_table(resolved("llama"))


@pytest.mark.regression("R11")
def test_a_rule_that_does_not_fit_a_weight_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    from forgather_llama.modeling_llama import LlamaModel

    from forgather_core.parts.initial_weights import fan_in_uniform, ones

    table = [(r"norm|embed|head", ones()), (r"", fan_in_uniform())]
    monkeypatch.setattr(LlamaModel, "initial_weights", lambda self: table)
    assert initial_table(resolved("llama"))
    table[0] = (r"embed|head", ones())
    with pytest.raises(
        DefinitionError, match=r"does not fit 'model\.layers\.\*\.input_layernorm\.weight': shape \(128,\)"
    ):
        initial_table(resolved("llama"))
