"""Every check of behaviour passes on models that are right, and fails on a mistake of the kind that it is for."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from forgather_core.checks.attention_agreement import attention_agreement
from forgather_core.checks.caching import caching
from forgather_core.checks.checkpointing import checkpointing
from forgather_core.checks.compiling import compiling
from forgather_core.checks.embeddings import embeddings
from forgather_core.checks.generation import generation
from forgather_core.checks.gradients import gradients
from forgather_core.checks.labels import labels
from forgather_core.checks.packing import packing
from forgather_core.checks.padding import padding
from forgather_core.checks.positions import kind_of, positions
from forgather_core.checks.rows import rows
from forgather_core.checks.run import FAILED, PASSED, verify
from forgather_core.checks.subject import ModelUnderTest
from forgather_core.commands.construct import construct
from forgather_core.definitions.check import Check
from forgather_core.definitions.registry import registry
from forgather_core.settings.layers import find_configuration
from forgather_core.settings.resolve import resolve

CHECKS = (
    packing,
    padding,
    caching,
    generation,
    attention_agreement,
    checkpointing,
    gradients,
    labels,
    embeddings,
    rows,
    positions,
    compiling,
)
BY_NAME = {check.name: check for check in CHECKS}
QUICK = [check for check in CHECKS if check.quick]
DEFINITIONS = ("causal_lm", "deepone", "llama", "mistral", "qwen3", "single_head")
RELATIVE = ("deepone", "llama", "mistral", "qwen3", "single_head")
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
    """The model directory of a definition, without weights."""
    settings = resolve(find_configuration(definition, registry(), Path()), {"output_dir": place / "model", **options})
    return construct(settings).directory.path


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The model directory of a case, made once."""

    @cache
    def make(case: str) -> Path:
        place = tmp_path_factory.mktemp("models")
        if case not in NATIVE:
            definition, options = VARIANTS.get(case, (f"{case}/4M", {}))
            path = written(definition, place, **options)
            if "third party" in case:  # code of its own, and nothing that says that it is ours
                (path / "forgather.json").unlink()
            return path
        kind, options = NATIVE[case]
        config = getattr(transformers, kind).config_class(**options, architectures=[kind])
        config.save_pretrained(place / "native")
        return place / "native"

    return make


def outcome(path: Path, check: Check) -> dict[str, Any]:
    """What a check says of a directory."""
    row: dict[str, Any] = verify(path, [check])["checks"][0]
    return row


def told(row: dict[str, Any]) -> list[Any]:
    """What did not hold, for the message of a failed test."""
    return [row["reason"], *(one for one in row["measured"] if not one["holds"])]


def cases(names: Any, checks: Any) -> list[Any]:
    return [pytest.param(name, check, id=f"{name}-{check.name}") for name in names for check in checks]


@pytest.mark.few(4)
@pytest.mark.parametrize(("case", "check"), cases(["deepone", "Mistral"], QUICK))
def test_a_right_model_passes(case: str, check: Check, directory: Callable[[str], Path]) -> None:
    row = outcome(directory(case), check)
    assert row["result"] == PASSED, told(row)
    assert row["measured"]


@pytest.mark.slow
@pytest.mark.parametrize(("case", "check"), cases((*DEFINITIONS, *VARIANTS, *NATIVE), CHECKS))
def test_every_right_model_passes(case: str, check: Check, directory: Callable[[str], Path]) -> None:
    test_a_right_model_passes(case, check, directory)


# What is replaced in a file of the model directory, and which checks must see it.
PLANTED: dict[str, tuple[str, str, str, tuple[str, ...]]] = {
    "packing is told without a cache alone": (
        "masks.py",
        "if position_ids is not None and not ready:",
        "if position_ids is not None and not ready and cache is None and attention_mask is None:",
        ("packing-isolation",),
    ),
    "a document sees the last token of the one before": (
        "masks.py",
        "return kv_idx >= starts",
        "return kv_idx + 1 >= starts",
        ("packing-isolation",),
    ),
    "the mask is dropped": (
        "masks.py",
        "attention_mask=attention_mask,\n        **{CACHE: cache}",
        "attention_mask=None,\n        **{CACHE: cache}",
        ("padding", "cache", "generation"),
    ),
    "padding is counted in absolute positions": (
        "positions.py",
        "counted = attention_mask.to(steps.device).long()",
        "counted = torch.ones_like(attention_mask)",
        ("padding",),
    ),
    "cached tokens are forgotten in positions": (
        "positions.py",
        "device=inputs_embeds.device) + past_length",
        "device=inputs_embeds.device) + 0 * past_length",
        ("cache",),
    ),
    "keys are cached as values": (
        "caches.py",
        "cache.update(key, value, layer_idx",
        "cache.update(key, key, layer_idx",
        ("cache", "generation"),
    ),
    "no cache is returned": ("language_model.py", "**{CACHE: outputs.get(CACHE)}", "**{CACHE: None}", ("cache",)),
    "eager forgets its scaling": (
        "self_attention.py",
        "key_BHSK.transpose(-1, -2) * scaling",
        "key_BHSK.transpose(-1, -2)",
        ("attention-agreement",),
    ),
    "checkpointing does nothing": (
        "blocks.py",
        "class Block(GradientCheckpointingLayer):",
        "class Block(torch.nn.Module):",
        ("gradient-checkpointing",),
    ),
    "keys are computed without gradients": (
        "attention.py",
        "self.k_proj(hidden_states).view(heads)",
        "self.k_proj(hidden_states).detach().view(heads)",
        ("gradients",),
    ),
    "labels are shifted twice": (
        "language_model.py",
        "self.loss_function(logits=logits, labels=labels,",
        "self.loss_function(logits=logits, labels=labels.roll(-1, 1),",
        ("labels",),
    ),
    "num_items_in_batch is forgotten": (
        "language_model.py",
        "vocab_size=self.config.vocab_size, **kwargs)",
        "vocab_size=self.config.vocab_size)",
        ("labels",),
    ),
    "logits_to_keep keeps the first": (
        "language_model.py",
        "slice(-logits_to_keep, None)",
        "slice(logits_to_keep or None)",
        ("labels",),
    ),
    "the loss in parts forgets what is not a target": (
        "language_model.py",
        "linear_cross_entropy(hidden_states, self.lm_head.weight, labels,",
        "linear_cross_entropy(hidden_states, self.lm_head.weight, labels.clamp(min=0),",
        ("labels",),
    ),
    "embeddings are scaled on one way only": (
        "decoder.py",
        "inputs_embeds = self.embed_tokens(input_ids)",
        "inputs_embeds = 2 * self.embed_tokens(input_ids)",
        ("inputs-embeds",),
    ),
    "token ids and embeddings at once are taken": (
        "decoder.py",
        "if (input_ids is None) == (inputs_embeds is None):",
        "if input_ids is None and inputs_embeds is None:",
        ("inputs-embeds",),
    ),
    "a mean over the batch": (
        "language_model.py",
        "hidden_states = outputs.last_hidden_state",
        "hidden_states = outputs.last_hidden_state\n"
        "        hidden_states = hidden_states - 1e-3 * hidden_states.mean(0)",
        ("rows",),
    ),
    "RoPE is computed and not used": (
        "attention.py",
        "if position_embeddings is not None:",
        "if position_embeddings is None:",
        ("positions",),
    ),
    "positions are added to tokens as well": (
        "decoder.py",
        "        return inputs_embeds\n",
        "        return inputs_embeds + 0.1 * position_ids[..., None]\n",
        ("positions",),
    ),
    "a value is looked at": (
        "language_model.py",
        "hidden_states = outputs.last_hidden_state",
        "hidden_states = outputs.last_hidden_state\n        if hidden_states.sum() > 1e9:\n            print()",
        ("compile",),
    ),
    "padding makes NaN": (
        "language_model.py",
        "hidden_states = outputs.last_hidden_state",
        "hidden_states = outputs.last_hidden_state\n"
        "        mask = kwargs.get('attention_mask', attention_mask)\n"
        "        if mask is not None:\n"
        "            padding = mask[:, -hidden_states.shape[1] :, None] == 0\n"
        "            hidden_states = hidden_states.masked_fill(padding, float('nan'))",
        ("padding",),
    ),
}
PLANTS = [
    pytest.param(mistake, name, id=f"{mistake}-{name}", marks=() if BY_NAME[name].quick else pytest.mark.slow)
    for mistake, (_, _, _, names) in PLANTED.items()
    for name in names
]


@pytest.fixture(scope="module")
def mistaken(directory: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The directory of a llama, or of what has absolute positions, in which a mistake is planted."""

    @cache
    def make(mistake: str) -> Path:
        file, old, new, _ = PLANTED[mistake]
        # Loaders call the module that they make of the sources after the directory.
        path = tmp_path_factory.mktemp("mistaken") / f"mistaken-{list(PLANTED).index(mistake)}"
        shutil.copytree(directory("causal_lm" if "absolute" in mistake else "llama"), path)
        text = (path / file).read_text(encoding="utf-8")
        assert text.count(old) == 1, f"{file} reads otherwise by now: {old!r}"
        (path / file).write_text(text.replace(old, new), encoding="utf-8")
        return path

    return make


@pytest.mark.few(5)
@pytest.mark.parametrize(("mistake", "name"), PLANTS)
def test_a_planted_mistake_is_found(mistake: str, name: str, mistaken: Callable[[str], Path]) -> None:
    row = outcome(mistaken(mistake), BY_NAME[name])
    assert row["result"] == FAILED, row["measured"]
    # By what it measured: a model that does not run at all would prove nothing of the check.
    assert any(not one["holds"] for one in row["measured"]), row["reason"]


def test_every_check_can_fail() -> None:
    assert {name for *_, names in PLANTED.values() for name in names} == set(BY_NAME)


@pytest.mark.parametrize("case", ["llama", "Mistral"])
def test_where_documents_leak_is_told(
    case: str, directory: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing tells the model of its documents: the first token that another document changes is named."""
    made = ModelUnderTest.model

    def deaf(self: ModelUnderTest, **changes: Any) -> Any:
        model = made(self, **changes)
        forward = model.forward

        def without(*args: Any, position_ids: Any = None, **more: Any) -> Any:
            return forward(*args, **more)

        monkeypatch.setattr(model, "forward", without)
        return model

    monkeypatch.setattr(ModelUnderTest, "model", deaf)
    row = outcome(directory(case), packing)
    assert row["result"] == FAILED
    wheres = [one["where"] for one in row["measured"] if one["where"]]
    assert wheres
    assert all("of document" in where and "document 0" not in where for where in wheres)


def test_parameters_without_gradients_are_named(mistaken: Callable[[str], Path]) -> None:
    row = outcome(mistaken("keys are computed without gradients"), gradients)
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
def test_the_kind_of_positions_is_told(case: str, kind: str, directory: Callable[[str], Path], tmp_path: Path) -> None:
    assert kind_of(ModelUnderTest(directory(case), tmp_path).model()) == kind


def test_transformers_own_models_are_tried_in_what_they_promise_alone(directory: Callable[[str], Path]) -> None:
    row = outcome(directory("Mistral"), packing)
    assert all("transformers' own classes promise no more" in one["what"] for one in row["measured"])
    assert not any("no positions" in one["what"] for one in outcome(directory("Mistral"), padding)["measured"])


def test_a_check_leaves_torch_as_it_was(directory: Callable[[str], Path]) -> None:
    outcome(directory("llama"), attention_agreement)
    assert torch.is_grad_enabled()
    assert torch.compile(lambda x: x + 1, backend="eager")(torch.zeros(1)).item() == 1
