"""Checks of construction pass on correct models, and their failures name the place."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
import transformers

from forgather_core.checks.buffers import buffers
from forgather_core.checks.estimates import estimates
from forgather_core.checks.init_std import init_std
from forgather_core.checks.initial_weights import initial_weights
from forgather_core.checks.manifest import manifest
from forgather_core.checks.native_parity import native_parity
from forgather_core.checks.no_dead_options import _entries, no_dead_options
from forgather_core.checks.precision import precision
from forgather_core.checks.reference_parity import reference_parity
from forgather_core.checks.round_trip import round_trip
from forgather_core.checks.run import verify
from forgather_core.checks.same_seed import dropouts, same_seed
from forgather_core.checks.shared.model_under_test import ModelUnderTest
from forgather_core.checks.shared.option_fields import options_of
from forgather_core.checks.shared.scope import Scope
from forgather_core.checks.signal_propagation import signal_propagation
from forgather_core.checks.standalone import standalone
from forgather_core.checks.try_check import FAILED, PASSED, SKIPPED
from forgather_core.commands.construct import construct
from forgather_core.definitions.check import Check
from forgather_core.definitions.registry import registry
from forgather_core.settings.layers import find_configuration
from forgather_core.settings.resolve import resolve
from forgather_core.settings.resolved_model import ResolvedModel
from tests.mutants.apply import Originals, mutated
from tests.mutants.catalogue import named

CHECKS = (
    initial_weights,
    signal_propagation,
    same_seed,
    buffers,
    precision,
    round_trip,
    standalone,
    manifest,
    no_dead_options,
    native_parity,
    reference_parity,
    init_std,
    estimates,
)
QUICK = [check for check in CHECKS if check.quick]
STATISTICAL = (initial_weights, signal_propagation, same_seed, precision, init_std)
DEFINITIONS = ("causal_lm", "deepone", "llama", "mistral", "qwen3", "single_head", "smollm3")
TWINS = ("llama", "mistral", "qwen3", "smollm3")
SIZES = {
    "vocab_size": 500,
    "hidden_size": 64,
    "intermediate_size": 112,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
}
NATIVE: dict[str, Callable[[], Any]] = {
    "LlamaConfig": lambda: transformers.LlamaConfig(**SIZES),
    "MistralConfig": lambda: transformers.MistralConfig(**SIZES, sliding_window=16),
    "Qwen3Config": lambda: transformers.Qwen3Config(**SIZES, head_dim=32, tie_word_embeddings=True),
    "GPT2Config": lambda: transformers.GPT2Config(
        vocab_size=500, n_embd=64, n_layer=4, n_head=4, n_positions=256, bos_token_id=499, eos_token_id=499
    ),
}
EVERY = (*DEFINITIONS, *NATIVE)


class Made(NamedTuple):
    """A directory, and the settings that made it, if any."""

    path: Path
    resolved: ResolvedModel | None


Make = Callable[[str], Made]


@pytest.fixture(scope="session")
def make(tmp_path_factory: pytest.TempPathFactory) -> Make:
    """Return a function that makes the directory of a name once."""
    known: dict[str, Made] = {}

    def find(name: str) -> Made:
        if name not in known:
            path = tmp_path_factory.mktemp("construction") / name
            resolved = None
            if name in NATIVE:
                NATIVE[name]().save_pretrained(path)
            else:
                resolved = resolve(find_configuration(name, registry(), Path()), {"output_dir": path})
                construct(resolved)
            known[name] = Made(path, resolved)
        return known[name]

    return find


def results(made: Made, *checks: Check, seed: int = 0) -> dict[str, str]:
    """Return the result of each check, with the quick ways to call a model; print failed cases for pytest's report."""
    report = verify(made.path, checks, resolved=made.resolved, seed=seed, scope=Scope(quick=True))
    for row in report["checks"]:
        for measured in row["measured"]:
            if not measured["holds"]:
                print(row["name"], measured)
        if row["result"] == FAILED:
            print(row["name"], row["reason"])
    return {row["name"]: row["result"] for row in report["checks"]}


def expected(name: str, *checks: Check) -> dict[str, str]:
    """Return the expected results: some promises are made by definitions only."""
    elsewhere: dict[str, tuple[str, ...]] = {
        manifest.name: DEFINITIONS,
        estimates.name: DEFINITIONS,
        native_parity.name: TWINS,
        reference_parity.name: DEFINITIONS,
        init_std.name: DEFINITIONS,
    }
    return {check.name: PASSED if name in elsewhere.get(check.name, EVERY) else SKIPPED for check in checks}


@pytest.mark.few(1)
@pytest.mark.parametrize("name", ["single_head", "GPT2Config"])
def test_correct_models_pass(make: Make, name: str) -> None:
    assert results(make(name), *QUICK) == expected(name, *QUICK)


@pytest.mark.few(0, slow=1)
@pytest.mark.parametrize("name", EVERY)
def test_all_correct_models_pass_all(make: Make, name: str) -> None:
    assert results(make(name), *CHECKS) == expected(name, *CHECKS)


@pytest.mark.few(0, slow=3)
@pytest.mark.parametrize("name", EVERY)
def test_another_seed_raises_no_false_alarm(make: Make, name: str) -> None:  # tools/false_alarms.py tries twenty
    assert results(make(name), *STATISTICAL, seed=1) == expected(name, *STATISTICAL)


def test_failures_name_the_parameter(tmp_path: Path) -> None:
    mutant, originals = named("init-std-ten-percent-larger"), Originals(tmp_path)
    (row,) = verify(mutated(mutant, originals.of(mutant), tmp_path), [initial_weights])["checks"]
    bad = [measured for measured in row["measured"] if not measured["holds"]]
    assert {measured["where"] for measured in bad} == {"model.embed_tokens.weight"}
    assert all(re.search(r"expected std [0-9.]+, got [0-9.]+ \(", measured["failure"]) for measured in bad)


def test_an_edited_file_is_found(make: Make, tmp_path: Path) -> None:
    edited = shutil.copytree(make("llama").path, tmp_path / "llama")
    with (edited / "norms.py").open("a") as file:
        file.write("# edited\n")
    assert results(Made(edited, make("llama").resolved), manifest) == {"manifest": FAILED}


def test_dropouts_and_options_are_found_by_name_and_declaration(make: Make, tmp_path: Path) -> None:
    subject = ModelUnderTest(make("llama").path, tmp_path)
    assert dropouts(subject.config()) == ["attention_dropout"]
    names = {option.name for option in options_of(subject.config())}
    assert {"hidden_size", "rope_parameters", "sliding_window"} <= names
    assert not {"use_cache", "skip_logits", "pad_token_id"} & names
    assert set(dropouts(NATIVE["GPT2Config"]())) >= {"attn_pdrop", "embd_pdrop", "resid_pdrop"}


def test_derived_fields_are_recomputed(make: Make, tmp_path: Path) -> None:
    subject = ModelUnderTest(make("qwen3").path, tmp_path)
    assert subject.underived() == {"layer_types": None, "use_sliding_window": None}
    config = subject.constructed({**subject.underived(), "num_hidden_layers": 5, "sliding_window": 4})
    assert config.layer_types == ["sliding_attention"] * 5
    with pytest.raises(ValueError, match="head_dim"):
        subject.constructed({"head_dim": 7})
    assert json.loads((subject.workdir / "config.json").read_text())["num_hidden_layers"] == 3
    torch.manual_seed(0)
    assert subject.fresh_model_of(config).config.num_hidden_layers == 5


def test_an_option_that_another_one_fixes_is_not_dead(tmp_path: Path) -> None:
    """The factors of longrope fix the head size, which null stands for, too."""
    factors = {"short_factor": [1.0] * 32, "long_factor": [2.0] * 32, "original_max_position_embeddings": 256}
    rope = {"rope_type": "longrope", "rope_theta": 10000.0} | factors
    resolved = resolve(
        find_configuration("llama", registry(), Path()), {"output_dir": tmp_path / "x", "rope_parameters": rope}
    )
    construct(resolved)
    (row,) = verify(tmp_path / "x", [no_dead_options], resolved=resolved)["checks"]
    assert row["result"] == PASSED
    texts = [measured["what"] for measured in row["measured"] if measured["what"].startswith("head_dim")]
    assert texts == ["head_dim: null means 64, and every other value is refused"]


def test_a_small_copy_has_enough_positions_for_the_texts(tmp_path: Path) -> None:
    config = NATIVE["GPT2Config"]()
    config.n_positions = 16
    config.save_pretrained(tmp_path / "short")
    (tmp_path / "place").mkdir()
    assert ModelUnderTest(tmp_path / "short", tmp_path / "place").config().n_positions == 64


def test_each_entry_of_a_mapping_has_an_effect_by_itself() -> None:
    value = {"rope_type": "default", "rope_theta": 10.0, "factor": 2}
    theta, factor = ({"rope": value | {name: 100}} for name in ("rope_theta", "factor"))
    dynamic = {"rope": {"rope_type": "dynamic", "rope_theta": 10.0}}
    assert [*_entries("rope", value, [theta, factor, dynamic])] == [
        ("rope", [dynamic]),
        ("rope.rope_theta", [theta]),
        ("rope.factor", [factor]),
    ]
    assert [*_entries("rope", value, [dynamic])] == [("rope", [dynamic])]
    assert [*_entries("size", 4, [{"size": 8}])] == [("size", [{"size": 8}])]
