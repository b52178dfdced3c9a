"""Checks of behaviour pass on correct models, and their failures name the place."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from forgather_core.checks.attention_backends import attention_backends
from forgather_core.checks.batch_invariance import batch_invariance
from forgather_core.checks.call_agreement import call_agreement
from forgather_core.checks.generation import generation
from forgather_core.checks.gradient_checkpointing import gradient_checkpointing
from forgather_core.checks.gradients import gradients
from forgather_core.checks.inputs_embeds import inputs_embeds
from forgather_core.checks.kv_cache import kv_cache
from forgather_core.checks.loss import loss
from forgather_core.checks.packing_isolation import packing_isolation
from forgather_core.checks.padding import padding
from forgather_core.checks.positions import positions
from forgather_core.checks.run import verify
from forgather_core.checks.shared.model_under_test import ModelUnderTest
from forgather_core.checks.shared.position_encoding import kind_of
from forgather_core.checks.shared.scope import Scope
from forgather_core.checks.torch_compile import torch_compile
from forgather_core.checks.try_check import FAILED, PASSED
from forgather_core.commands.construct import construct
from forgather_core.definitions.check import Check
from forgather_core.definitions.registry import registry
from forgather_core.settings.layers import find_configuration
from forgather_core.settings.resolve import resolve
from tests.mutants.apply import Originals, mutated
from tests.mutants.catalogue import named

CHECKS = (
    packing_isolation,
    padding,
    kv_cache,
    generation,
    attention_backends,
    gradient_checkpointing,
    gradients,
    loss,
    inputs_embeds,
    batch_invariance,
    positions,
    torch_compile,
)
QUICK = [check for check in CHECKS if check.quick]
DEFINITIONS = ("causal_lm", "deepone", "llama", "mistral", "qwen3", "single_head", "smollm3")
RELATIVE = ("deepone", "llama", "mistral", "qwen3", "single_head", "smollm3")
SIZES: dict[str, Any] = {
    "vocab_size": 400,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
}
HALF_WINDOW = {"head_dim": 32, "use_sliding_window": True, "sliding_window": 9, "max_window_layers": 1}
NATIVE: dict[str, tuple[str, dict[str, Any]]] = {
    "Llama": ("LlamaForCausalLM", SIZES),
    "Mistral": ("MistralForCausalLM", SIZES | {"sliding_window": 9}),
    "Qwen3": ("Qwen3ForCausalLM", SIZES | {"head_dim": 32}),
    "Qwen3, half window": ("Qwen3ForCausalLM", SIZES | HALF_WINDOW),
    "GPT2": ("GPT2LMHeadModel", {"vocab_size": 400, "n_positions": 64, "n_embd": 64, "n_layer": 2, "n_head": 4}),
}
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama, window": ("llama/4M", {"sliding_window": 5}),
    "llama, third party": ("llama/4M", {}),
    "llama, tied": ("llama/4M", {"tie_word_embeddings": True}),
    "qwen3, half window": ("qwen3/4M", {"sliding_window": 5, "max_window_layers": 2}),
    "deepone, window": ("deepone/4M", {"sliding_window": 5}),
    "deepone, fixed slopes": ("deepone/4M", {"alibi_trainable": False}),
    "causal_lm, window": ("causal_lm/4M", {"sliding_window": 5}),
    "single_head, window": ("single_head/4M", {"sliding_window": 5}),
}


def written(definition: str, place: Path, **options: Any) -> Path:
    """Write the model directory of a definition, without weights, and return it."""
    resolved = resolve(find_configuration(definition, registry(), Path()), {"output_dir": place / "model", **options})
    return construct(resolved).directory.path


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Return a function that makes the model directory of a case once."""

    @cache
    def make(case: str) -> Path:
        place = tmp_path_factory.mktemp("models")
        if case not in NATIVE:
            definition, options = VARIANTS.get(case, (f"{case}/4M", {}))
            path = written(definition, place, **options)
            if "third party" in case:  # code of its own, and no manifest of Forgather
                (path / "forgather.json").unlink()
            return path
        kind, options = NATIVE[case]
        config = getattr(transformers, kind).config_class(**options, architectures=[kind])
        config.save_pretrained(place / "native")
        return place / "native"

    return make


def outcome(path: Path, check: Check) -> dict[str, Any]:
    """Run a check on a directory and return its row of the report."""
    row: dict[str, Any] = verify(path, [check], scope=Scope(trust_remote_code=True))["checks"][0]
    return row


def failures(row: dict[str, Any]) -> list[Any]:
    """Return the failed cases, for the message of a failed test."""
    return [row["reason"], *(one for one in row["measured"] if not one["holds"])]


def cases(names: Any, checks: Any) -> list[Any]:
    return [pytest.param(name, check, id=f"{name}-{check.name}") for name in names for check in checks]


@pytest.mark.few(4, slow=4)
@pytest.mark.parametrize(("case", "check"), cases(["deepone", "Mistral"], QUICK))
def test_a_correct_model_passes(case: str, check: Check, directory: Callable[[str], Path]) -> None:
    row = outcome(directory(case), check)
    assert row["result"] == PASSED, failures(row)
    assert row["measured"]


# call-agreement takes ten seconds: it runs on the definitions and on transformers' models only.
BRIEF = tuple(check for check in CHECKS if check is not call_agreement)


@pytest.mark.few(0, slow=20)
@pytest.mark.parametrize(("case", "check"), [*cases((*DEFINITIONS, *NATIVE), CHECKS), *cases(tuple(VARIANTS), BRIEF)])
def test_every_correct_model_passes(case: str, check: Check, directory: Callable[[str], Path]) -> None:
    test_a_correct_model_passes(case, check, directory)


@pytest.mark.parametrize("case", ["llama", "Mistral"])
def test_a_leak_between_documents_is_located(
    case: str, directory: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The model does not receive position_ids: the first token that another document changes is named."""
    made = ModelUnderTest.randomized_model

    def without_positions(self: ModelUnderTest, **changes: Any) -> Any:
        model = made(self, **changes)
        forward = model.forward

        def without(*args: Any, position_ids: Any = None, **more: Any) -> Any:
            return forward(*args, **more)

        monkeypatch.setattr(model, "forward", without)
        return model

    monkeypatch.setattr(ModelUnderTest, "randomized_model", without_positions)
    row = outcome(directory(case), packing_isolation)
    assert row["result"] == FAILED
    wheres = [one["where"] for one in row["measured"] if one["where"]]
    assert wheres
    assert all("of document" in where and "document 0" not in where for where in wheres)


def test_parameters_without_gradients_are_named(tmp_path: Path) -> None:
    mutant, originals = named("gradient-cut-in-keys"), Originals(tmp_path)
    row = outcome(mutated(mutant, originals.of(mutant), tmp_path), gradients)
    wheres = [one["where"] for one in row["measured"] if one["where"]]
    assert wheres
    assert all("self_attn.k_proj.weight" in where for where in wheres)


@pytest.mark.parametrize(
    ("case", "kind"),
    [
        ("causal_lm", "absolute"),
        ("deepone", "relative"),
        ("llama", "relative"),
        ("GPT2", "absolute"),
        ("Llama", "relative"),
    ],
)
def test_the_kind_of_positions_is_recognized(
    case: str, kind: str, directory: Callable[[str], Path], tmp_path: Path
) -> None:
    assert kind_of(ModelUnderTest(directory(case), tmp_path).randomized_model()) == kind


def test_transformers_own_models_are_tested_for_their_promises_only(directory: Callable[[str], Path]) -> None:
    row = outcome(directory("Mistral"), packing_isolation)
    assert all("transformers' own classes support no other case" in one["what"] for one in row["measured"])
    assert not any("no positions" in one["what"] for one in outcome(directory("Mistral"), padding)["measured"])


def test_a_check_leaves_torch_as_it_was(directory: Callable[[str], Path]) -> None:
    outcome(directory("llama"), attention_backends)
    assert torch.is_grad_enabled()
    assert torch.compile(lambda x: x + 1, backend="eager")(torch.zeros(1)).item() == 1
