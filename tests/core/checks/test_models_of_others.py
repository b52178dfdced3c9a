"""Checks on models that Forgather did not write: what their classes do not promise does not apply."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from forgather_core.checks import CHECKS, choose, verify
from forgather_core.checks.covering.applicable import inapplicable_levels, rules_of
from forgather_core.checks.shared.scope import Scope
from forgather_core.definitions.check import failure_text
from tests.support.native_models import subject_of_type, write_type
from tests.support.remote_code import SMALL, Edit, write_remote_code

EXPERTS = {**SMALL, "num_key_value_heads": 2, "num_local_experts": 4}
MISTAKES: dict[str, tuple[str, dict[str, Any], Edit, str]] = {
    "hidden-states": (
        "qwen3",
        {**SMALL, "head_dim": 16, "num_key_value_heads": 2},
        (
            "    @capture_outputs\n    @auto_docstring",
            "    @capture_outputs(tie_last_hidden_states=False)\n    @auto_docstring",
        ),
        "the last hidden state is that of the base model",
    ),
    "attention-backends": (
        "mixtral",
        EXPERTS,
        ("gate, up = nn.functional.linear(current_state,", "up, gate = nn.functional.linear(current_state,"),
        "experts computed by batched_mm",
    ),
    "padding": (
        "mixtral",
        EXPERTS,
        ("self.num_experts_per_tok,\n                attention_mask,", "self.num_experts_per_tok,"),
        "the auxiliary loss of the router",
    ),
    "kv-cache": (
        "llama",
        SMALL,
        (
            "        if position_ids is None:\n",
            "        if position_ids is None and attention_mask is not None and inputs_embeds.shape[1] == 1:\n"
            "            position_ids = attention_mask.sum(dim=-1, keepdim=True)\n"
            "        if position_ids is None:\n",
        ),
        "a mask of ones, a prompt and single tokens",
    ),
}


def row_of(directory: Path, name: str) -> dict[str, Any]:
    (row,) = verify(directory, choose(CHECKS, [name]), scope=Scope(quick=True, trust_remote_code=True))["checks"]
    return row


def row_of_type(kind: str, place: Path, name: str, **values: Any) -> dict[str, Any]:
    return row_of(write_type(kind, place / "model", **values), name)


@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes_in_copies_are_found(name: str, tmp_path: Path) -> None:
    kind, values, edit, words = MISTAKES[name]
    row = row_of(write_remote_code(kind, tmp_path / f"mistake_{kind}", [edit], **values), name)
    assert row["result"] == "failed"
    assert words in " | ".join(failure_text(one) for one in row["measured"] if not one["holds"])


@pytest.mark.parametrize("name", MISTAKES)
def test_copies_without_a_mistake_pass(name: str, tmp_path: Path) -> None:
    kind, values, _, _ = MISTAKES[name]
    row = row_of(write_remote_code(kind, tmp_path / f"correct_{kind}", **values), name)
    assert row["result"] == "passed", [one["what"] for one in row["measured"] if not one["holds"]]


@pytest.mark.parametrize("name", ["causality", "batch-invariance", "precision"])
def test_experts_may_differ_by_rounding(name: str, tmp_path: Path) -> None:
    row = row_of_type("mixtral", tmp_path, name)
    assert row["result"] == "passed", [one["what"] for one in row["measured"] if not one["holds"]]


@pytest.mark.parametrize(
    ("kind", "name", "reason"),
    [
        ("bloom", "packing-isolation", "the model takes no position_ids"),
        ("mamba2", "continuous-batching", "transformers' continuous batching does not support this model"),
        ("diffllama", "dropout", "the model refuses dropout"),
        ("openai-gpt", "kv-cache", "the model has no cache argument"),
        ("openai-gpt", "cache-size", "the model has no cache argument"),
    ],
)
def test_what_a_class_does_not_have_does_not_apply(kind: str, name: str, reason: str, tmp_path: Path) -> None:
    row = row_of_type(kind, tmp_path, name)
    assert row["result"] == "skipped"
    assert row["reason"].startswith(reason)


def test_recurrent_layers_have_no_keys_to_crop(tmp_path: Path) -> None:
    row = row_of_type("mamba2", tmp_path, "kv-cache")
    assert row["result"] == "passed"
    assert len(row["measured"]) > 10
    assert not any("cropped" in one["what"] for one in row["measured"])


@pytest.mark.parametrize(("kind", "levels"), [("bloom", ["mask=4d-float"]), ("gptj", ["length=513"])])
def test_a_level_that_a_model_refuses_is_reported(kind: str, levels: list[str], tmp_path: Path) -> None:
    details = row_of_type(kind, tmp_path, "call-agreement")["details"]
    for level in levels:
        assert details["inapplicable"][level].startswith("the model refuses it: ")


def test_levels_of_absent_arguments_do_not_apply(tmp_path: Path) -> None:
    rope = {"full_attention": {"rope_type": "default", "rope_theta": 10000.0}}
    subjects = {kind: subject_of_type(kind, tmp_path / kind) for kind in ("xlstm", "llama")}
    subjects["cohere_compass_text"] = subject_of_type("cohere_compass_text", tmp_path / "compass", rope_parameters=rope)
    reasons = {kind: inapplicable_levels(subject) for kind, subject in subjects.items()}
    assert reasons["xlstm"]["logits_to_keep=last"] == "the model takes no logits_to_keep"
    assert "logits_to_keep=last" not in reasons["llama"]
    trains = {kind: [rule.reason for rule in rules_of(subject)] for kind, subject in subjects.items()}
    assert "the model makes no cache in training" in trains["cohere_compass_text"]
    assert "the model makes no cache in training" not in trains["llama"]


def test_beams_that_generate_refuses_are_left_out(tmp_path: Path) -> None:
    found = [one["what"] for one in row_of_type("xlstm", tmp_path, "generation")["measured"]]
    assert not any("use_cache=True, two beams" in what for what in found)
    assert any("use_cache=False, two beams" in what for what in found)


def test_frozen_parameters_are_constants(tmp_path: Path) -> None:
    subject = subject_of_type("roformer", tmp_path, is_decoder=True)
    frozen = {name: p for name, p in subject.fresh_model().named_parameters() if not p.requires_grad}
    randomized = subject.randomized_model()
    assert frozen
    assert all(torch.equal(randomized.get_parameter(name), one) for name, one in frozen.items())


def test_a_packed_leak_is_found(tmp_path: Path) -> None:
    row = row_of_type("gpt_oss", tmp_path, "packing-isolation")
    assert row["result"] == "failed"
    assert row["reason"] is None
    assert all(one["error"] > 100 * one["tolerance"] for one in row["measured"] if not one["holds"])


def test_a_loss_that_is_not_shifted_is_found(tmp_path: Path) -> None:
    row = row_of_type("bart", tmp_path, "loss", is_decoder=True, is_encoder_decoder=False)
    assert row["result"] == "failed"
    assert "evaluation, all tokens are targets" in [one["what"] for one in row["measured"] if not one["holds"]]


# Each failed once for a reason that is no mistake of the class: keys with equal scores, a first layer without
# positions, a table of an input that is absent, a plan with the parts of experts, weights at odd addresses of a file, a
# table of positions under another name, gradients in another order, layers of two parts, weights fixed in float32,
# gradients that amplify rounding, loops of layers, blocks in place of layers, indices of layers, keys that an index
# selects, sizes of some layers.
@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("deepseek_v32", "packing-isolation"),
        ("flint", "positions"),
        ("roc_bert", "gradients"),
        ("inkling_text", "parallel-plans"),
        ("zaya", "round-trip"),
        ("whisper", "precision"),
        ("inkling2_text", "gradient-checkpointing"),
        ("inkling2_text", "cache-size"),
        ("longcat_flash", "hidden-states"),
        ("longcat_flash", "attention-cost"),
        ("xlstm", "adapters"),
        ("dory", "kv-cache"),
        ("dory", "dropout"),
        ("zamba2", "signal-propagation"),
        ("dots3_note_text", "attention-cost"),
        pytest.param("gemma4_unified_text", "attention-backends", marks=pytest.mark.slow),
    ],
)
def test_correct_classes_pass(kind: str, name: str, tmp_path: Path) -> None:
    row = row_of_type(kind, tmp_path, name)
    assert row["result"] == "passed", row["reason"] or [
        failure_text(one) for one in row["measured"] if not one["holds"]
    ]


def test_an_option_without_an_effect_is_named(tmp_path: Path) -> None:
    edit = ("self.variance_epsilon = eps", "self.variance_epsilon = 1e-6")
    directory = write_remote_code("llama", tmp_path / "copied_llama", [edit], **SMALL)
    scope = Scope(quick=True, trust_remote_code=True)
    report = verify(directory, choose(CHECKS, ["no-dead-options", "other-implementation"]), scope=scope)
    rows = {row["name"]: [failure_text(one) for one in row["measured"] if not one["holds"]] for row in report["checks"]}
    assert rows["no-dead-options"] == ["rms_norm_eps has no effect (tried 0.001, 0.250001, 5e-07 and 0.5)"]
    assert [text.partition(":")[0] for text in rows["other-implementation"]] == ["rms_norm_eps=0.001"]


def test_views_of_weights_without_gradients_are_tracked(tmp_path: Path) -> None:
    attention = {"rope_theta": 1e4, "kv_n_heads": 2, "clip_qkv": 8.0}
    row = row_of_type("dbrx", tmp_path, "attention-cost", attn_config=attention, ffn_config={"hidden_size": 2048})
    assert row["result"] == "passed", row["reason"]


def test_layers_that_select_keys_have_no_window(tmp_path: Path) -> None:
    row = row_of_type("dots3_note_text", tmp_path, "sliding-window")
    assert (row["result"], row["reason"]) == ("skipped", "some layers have no sliding window")


def test_states_reach_beyond_a_window(tmp_path: Path) -> None:
    row = row_of_type("recurrent_gemma", tmp_path, "sliding-window")
    assert (row["result"], row["reason"]) == ("skipped", "layers with a state reach beyond the window")


def test_an_error_names_the_line_of_the_class(tmp_path: Path) -> None:
    row = row_of_type("xmod", tmp_path, "precision", languages=["en_XX"], default_language="en_XX")
    assert row["result"] == "failed"
    assert "(modeling_xmod.py:" in row["reason"]
