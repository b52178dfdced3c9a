"""The check of dropout passes on correct models, and names what is wrong with a mistake."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import transformers

from forgather_core.checks.run import verify
from forgather_core.checks.try_check import FAILED, PASSED, SKIPPED
from forgather_core.definitions.check import failure_text
from tests.mutants.apply import Originals, mutated
from tests.mutants.catalogue import Mutant

module = import_module("forgather_core.checks.dropout")
dropout = module.dropout
DROP = "self.drop = nn.Dropout(dropout) if dropout else unchanged"
SIZES = {"vocab_size": 300, "n_embd": 64, "n_layer": 2, "n_head": 2, "n_positions": 64}
SEEDED = "(lambda x: (torch.manual_seed(0), nn.functional.dropout(x, dropout, self.training))[1])"
SCALED = "(lambda x: nn.functional.dropout(x, dropout, self.training) * (0.7 if self.training else 1.0))"
# Not torch's functions, but correct.
MASKED = "(lambda x: x * (torch.rand_like(x) >= dropout) / (1 - dropout) if self.training else x)"
# Gradient checkpointing restores the state of torch's generator only.
GENERATOR = (
    "(lambda x, g=torch.Generator(): "
    "x * (torch.rand(x.shape, generator=g) >= dropout) / (1 - dropout) if self.training else x)"
)


@pytest.fixture(scope="module")
def originals(tmp_path_factory: pytest.TempPathFactory) -> Originals:
    return Originals(tmp_path_factory.mktemp("originals"))


def outcome(path: Path) -> dict[str, Any]:
    """Run the check on a directory, and return its row of the report."""
    row: dict[str, Any] = verify(path, [dropout])["checks"][0]
    return row


def mutant(file: str, old: str, new: str, count: int = 1) -> Mutant:
    return Mutant(
        name="mutant",
        definition="causal_lm",
        file=file,
        old=old,
        new=new,
        mistake="planted",
        check=dropout.name,
        count=count,
    )


def in_blocks(new: str) -> Mutant:
    return mutant("blocks.py", DROP, f"self.drop = {new} if dropout else unchanged", count=2)


MISTAKES = {
    "rate": (
        mutant("modeling_causal_lm.py", "dropout=c.layer_dropout,", "dropout=c.layer_dropout / 2,"),
        [
            "layer_dropout, eager: expected a share of zeros of 0.3, got 0.1",
            "kept elements are not divided by 1 - p, at model.layers.",
        ],
    ),
    "rescaled": (in_blocks(SCALED), ["training differs from evaluation by more than dropout"]),
    "tokens": (
        in_blocks("nn.Dropout1d(dropout)"),
        ["the mask is not elementwise: it repeats along the dimension of features, at model.layers."],
    ),
    "seeded": (in_blocks(SEEDED), ["two calls drop the same elements, at two calls in model.layers.0"]),
    "in eval": (
        in_blocks("(lambda x: nn.functional.dropout(x, dropout))"),
        ["layer_dropout, sdpa: it is active in evaluation, at model.layers.0"],
    ),
    "not in the first layer": (
        mutant("modeling_causal_lm.py", "dropout=c.layer_dropout,", "dropout=c.layer_dropout if i else 0.0,"),
        ["the number of dropout calls differs between layers, at layer 0: 0 calls, layer 1: 2 calls"],
    ),
    "sdpa": (
        mutant("self_attention.py", "dropout=self.attention_dropout if", "dropout=self.attention_dropout / 2 if"),
        ["sdpa: expected dropout_p=0.3 in sdpa, got 0.15, at model.layers.0.self_attn"],
    ),
    "values": (
        mutant(
            "self_attention.py",
            "weights_BHTS = nn.functional.dropout(weights_BHTS, dropout, module.training)",
            "value_BHSK = nn.functional.dropout(value_BHSK, dropout, module.training)",
        ),
        ["attention_dropout: eager does not drop attention weights where sdpa does, at sdpa: 3 calls; eager: 3 calls"],
    ),
    "dead": (
        mutant("modeling_causal_lm.py", "dropout=c.layer_dropout,", "dropout=0.0,"),
        ["layer_dropout, eager: it has no effect in training"],
    ),
    "not recomputed": (in_blocks(GENERATOR), ["gradient checkpointing with dropout, eager, reentrant: gradients: off"]),
}


@pytest.mark.parametrize("case", MISTAKES)
def test_a_mistake_is_named(case: str, originals: Originals, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    planted, expected = MISTAKES[case]
    option = "attention_dropout" if planted.file == "self_attention.py" else "layer_dropout"
    monkeypatch.setattr(module, "dropouts", lambda _: [option])  # the others take time
    row = outcome(mutated(planted, originals.of(planted), tmp_path))
    texts = [failure_text(one) for one in row["measured"] if not one["holds"]]
    assert row["result"] == FAILED
    assert all(any(text in one for one in texts) for text in expected), texts


def test_a_correct_definition_passes(originals: Originals) -> None:
    row = outcome(originals.of(in_blocks("")).path)
    assert row["result"] == PASSED, row
    options = {one["what"].partition(",")[0] for one in row["measured"]}
    assert options > {"attention_dropout", "embedding_dropout", "layer_dropout", "activation_dropout"}
    assert not row["details"]


def test_dropout_without_torchs_functions_is_not_judged(
    originals: Originals, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "dropouts", lambda _: ["layer_dropout"])
    planted = in_blocks(MASKED)
    row = outcome(mutated(planted, originals.of(planted), tmp_path))
    assert row["result"] == PASSED, row
    (names,) = row["details"].values()
    assert names == ["layer_dropout, eager", "layer_dropout, sdpa"]


@pytest.mark.parametrize("dropouts", [{}, {"attn_pdrop": 0.0, "resid_pdrop": 0.5}])
def test_transformers_own_classes_are_tried_with_all_options_at_once(dropouts: Any, tmp_path: Path) -> None:
    config = transformers.GPT2Config(**SIZES, **dropouts, architectures=["GPT2LMHeadModel"])
    config.save_pretrained(tmp_path / "gpt2")
    row = outcome(tmp_path / "gpt2")
    assert row["result"] == PASSED, row
    assert any(one["what"].startswith("resid_pdrop, embd_pdrop, attn_pdrop") for one in row["measured"])


def test_a_model_without_dropout_options_is_skipped(tmp_path: Path) -> None:
    transformers.MambaConfig(vocab_size=300, hidden_size=32, num_hidden_layers=2).save_pretrained(tmp_path / "mamba")
    row = outcome(tmp_path / "mamba")
    assert (row["result"], row["reason"]) == (SKIPPED, "the configuration has no dropout option")
