"""Every check of construction passes on models that are right, and fails on a mistake of the kind that it is for."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
import transformers

from forgather_core.checks.against_reference import equations, spreads
from forgather_core.checks.buffers import buffers
from forgather_core.checks.depth import depth
from forgather_core.checks.estimates import estimates
from forgather_core.checks.initial_weights import initial_weights
from forgather_core.checks.manifest import manifest
from forgather_core.checks.native_twin import native_twin
from forgather_core.checks.options_matter import options_matter, options_of
from forgather_core.checks.precision import precision
from forgather_core.checks.round_trip import round_trip
from forgather_core.checks.run import FAILED, PASSED, SKIPPED, verify
from forgather_core.checks.seeds import dropouts, same_seed
from forgather_core.checks.standalone import standalone
from forgather_core.checks.subject import ModelUnderTest
from forgather_core.commands.construct import construct
from forgather_core.definitions.check import Check
from forgather_core.definitions.registry import registry
from forgather_core.settings.layers import find_configuration
from forgather_core.settings.resolve import Settings, resolve

CHECKS = (
    initial_weights,
    depth,
    same_seed,
    buffers,
    precision,
    round_trip,
    standalone,
    manifest,
    options_matter,
    native_twin,
    equations,
    spreads,
    estimates,
)
QUICK = [check for check in CHECKS if check.quick]
STATISTICAL = (initial_weights, depth, same_seed, precision, spreads)
DEFINITIONS = ("causal_lm", "deepone", "llama", "mistral", "qwen3", "single_head")
TWINS = ("llama", "mistral", "qwen3")
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
    """A directory, and the settings it was made of, if any."""

    path: Path
    settings: Settings | None


Make = Callable[[str], Made]


@pytest.fixture(scope="session")
def make(tmp_path_factory: pytest.TempPathFactory) -> Make:
    """The directory of a name, made once."""
    known: dict[str, Made] = {}

    def find(name: str) -> Made:
        if name not in known:
            path = tmp_path_factory.mktemp("construction") / name
            settings = None
            if name in NATIVE:
                NATIVE[name]().save_pretrained(path)
            else:
                settings = resolve(find_configuration(name, registry(), Path()), {"output_dir": path})
                construct(settings)
            known[name] = Made(path, settings)
        return known[name]

    return find


def results(made: Made, *checks: Check, seed: int = 0) -> dict[str, str]:
    """Each check's result; what failed is told by pytest's own report."""
    report = verify(made.path, checks, settings=made.settings, seed=seed)
    for row in report["checks"]:
        for measured in row["measured"]:
            if not measured["holds"]:
                print(row["name"], measured)
        if row["result"] == FAILED:
            print(row["name"], row["reason"])
    return {row["name"]: row["result"] for row in report["checks"]}


def expected(name: str, *checks: Check) -> dict[str, str]:
    """What they should come to: some promises are definitions' only."""
    elsewhere: dict[str, tuple[str, ...]] = {
        manifest.name: DEFINITIONS,
        options_matter.name: DEFINITIONS,
        estimates.name: DEFINITIONS,
        native_twin.name: TWINS,
        equations.name: DEFINITIONS,
        spreads.name: DEFINITIONS,
    }
    return {check.name: PASSED if name in elsewhere.get(check.name, EVERY) else SKIPPED for check in checks}


@pytest.mark.few(1)
@pytest.mark.parametrize("name", ["single_head", "GPT2Config"])
def test_right_models_pass(make: Make, name: str) -> None:
    assert results(make(name), *QUICK) == expected(name, *QUICK)


@pytest.mark.slow
@pytest.mark.parametrize("name", EVERY)
def test_all_right_models_pass_all(make: Make, name: str) -> None:
    assert results(make(name), *CHECKS) == expected(name, *CHECKS)


@pytest.mark.slow
@pytest.mark.parametrize("name", EVERY)
def test_no_seed_raises_a_false_alarm(make: Make, name: str) -> None:
    for seed in range(1, 4):  # tools/false_alarms.py tries twenty
        assert results(make(name), *STATISTICAL, seed=seed) == expected(name, *STATISTICAL), seed


class Mistake(NamedTuple):
    """A wrong text in place of the right one, in a file of an exported directory, and the check that must see it."""

    check: Check
    definition: str
    file: str
    right: str
    wrong: str


SUPPORTS = "    supports_gradient_checkpointing = True"
QUICK_MISTAKES = {
    "a spread of ten percent more": Mistake(
        initial_weights,
        "llama",
        "initial_weights.py",
        "normal_(0.0, self.scale, generator=generator)\n\n",
        "normal_(0.0, 1.1 * self.scale, generator=generator)\n\n",
    ),
    "an initialisation that never runs": Mistake(
        initial_weights, "llama", "table_init.py", "        work.fill()", "        pass"
    ),
    "residuals that double": Mistake(
        depth, "llama", "blocks.py", "hidden_states + self.drop(attended)", "2 * hidden_states + self.drop(attended)"
    ),
    "randomness beside the seed": Mistake(
        same_seed,
        "llama",
        "weight_pieces.py",
        "    for fill in fills:\n        try:",
        "    torch.seed()\n    seed = None\n    for fill in fills:\n        try:",
    ),
    "frequencies that are not computed again": Mistake(
        buffers, "llama", "rope.py", "self.inv_freq = self._frequencies(device)[0]", "pass"
    ),
    "angles in the dtype of the weights": Mistake(
        precision,
        "llama",
        "rope.py",
        "position_ids[..., None].float() *",
        "position_ids[..., None].to(x.dtype) *",
    ),
    "a weight that is not saved": Mistake(
        round_trip,
        "llama",
        "pretrained.py",
        SUPPORTS,
        f'{SUPPORTS}\n    _keys_to_ignore_on_save = {{"model.norm.weight"}}',
    ),
    "an edited file": Mistake(manifest, "llama", "norms.py", "import torch", "import torch  # edited"),
    "an option that is not read": Mistake(
        options_matter, "deepone", "modeling_deepone.py", "trainable=c.alibi_trainable", "trainable=True"
    ),
    "a rotation the other way": Mistake(native_twin, "llama", "rotation.py", "(-first, first)", "(first, -first)"),
    "another activation": Mistake(
        equations, "deepone", "modeling_deepone.py", 'activation="relu"', 'activation="silu"'
    ),
    "residual branches that begin as large as others": Mistake(
        spreads, "qwen3", "llama_weights.py", "truncated_normal(std=0.02 * depth)", "truncated_normal(std=0.02)"
    ),
    "another size than the settings'": Mistake(
        estimates, "llama", "config.json", '"intermediate_size": 768', '"intermediate_size": 770'
    ),
}
LAST = "        self.post_init()"
UNTIED = "self.lm_head.weight = nn.Parameter(self.lm_head.weight.detach().clone())"
MISTAKES = {
    "a mean that is not 0": Mistake(
        initial_weights,
        "causal_lm",
        "initial_weights.py",
        "uniform_(-bound, bound,",
        "uniform_(-0.9 * bound, 1.1 * bound,",
    ),
    "a constant that is another": Mistake(
        initial_weights, "deepone", "initial_weights.py", "numbers.fill_(self.values[0])", "numbers.fill_(0.99)"
    ),
    "slopes that are others": Mistake(
        initial_weights,
        "deepone",
        "initial_weights.py",
        "copy_(torch.tensor(given",
        "copy_(0.9 * torch.tensor(given",
    ),
    "padding that is drawn": Mistake(
        initial_weights, "qwen3", "weight_pieces.py", "run[lo - first : hi - first].zero_()", "pass"
    ),
    "a parameter without a row": Mistake(
        initial_weights, "llama", "llama_weights.py", r"(q|k|v|gate|up)_proj", r"(q|k|v|up)_proj"
    ),
    "a head with large rows": Mistake(
        depth,
        "llama",
        "llama_weights.py",
        "truncated_normal(std=hidden_size**-0.5, cut=3)",
        "truncated_normal(std=1.0)",
    ),
    "branches that vanish": Mistake(
        depth, "deepone", "blocks.py", "torch.add(branch, residual, alpha=self.alpha)", "branch * 0.1"
    ),
    "dropout in eval": Mistake(
        same_seed, "causal_lm", "modeling_causal_lm.py", "self.embed_drop(scaled", "nn.functional.dropout(scaled"
    ),
    "dropout nowhere": Mistake(
        same_seed, "deepone", "modeling_deepone.py", "return self.embed_drop(inputs_embeds)", "return inputs_embeds"
    ),
    "buffers that are cast": Mistake(
        buffers, "causal_lm", "computed_buffers.py", "            self.reset_buffers()", "            pass"
    ),
    "slopes that are cast": Mistake(
        precision, "deepone", "alibi.py", "if self.slopes.dtype != torch.float32 and", "if False and"
    ),
    "sines of rounded positions": Mistake(
        precision,
        "causal_lm",
        "modeling_causal_lm.py",
        "self.embed_positions(position_ids)",
        "self.embed_positions(position_ids.to(scaled.dtype))",
    ),
    "a tied head that comes apart": Mistake(
        round_trip, "single_head", "language_model.py", LAST, f"{LAST}\n        {UNTIED}"
    ),
    "an import of ours": Mistake(
        standalone, "llama", "blocks.py", "import torch\n", "import torch\n__import__('forgather_core')\n"
    ),
    "an eps that is not read": Mistake(options_matter, "llama", "modeling_llama.py", "eps=c.rms_norm_eps", "eps=1e-5"),
    "a window that is not read": Mistake(
        options_matter, "mistral", "modeling_mistral.py", "sliding_window=c.sliding_window", "sliding_window=None"
    ),
    "a switch that matters in combination and is not read": Mistake(
        options_matter, "qwen3", "configuration_qwen3.py", "if i >= self.max_window_layers", "if i >= 0"
    ),
    "a dropout that is not read": Mistake(
        options_matter, "deepone", "modeling_deepone.py", "dropout=c.layer_dropout", "dropout=0.0"
    ),
    "head norms with another eps": Mistake(native_twin, "qwen3", "norms.py", "+ self.eps", "+ 1e-2"),
}


def plant(made: Made, mistake: Mistake, place: Path) -> Made:
    """A copy of the directory with the mistake in it."""
    path = place / made.path.name
    shutil.copytree(made.path, path)
    file = path / mistake.file
    text = file.read_text()
    assert mistake.right in text, "the mistake is in a line that is no longer there"
    file.write_text(text.replace(mistake.right, mistake.wrong))
    return Made(path, made.settings)


@pytest.mark.few(4)
@pytest.mark.parametrize("mistake", QUICK_MISTAKES.values(), ids=QUICK_MISTAKES)
def test_a_mistake_is_found(make: Make, mistake: Mistake, tmp_path: Path) -> None:
    wrong = plant(make(mistake.definition), mistake, tmp_path)
    assert results(wrong, mistake.check) == {mistake.check.name: FAILED}


@pytest.mark.slow
@pytest.mark.parametrize("mistake", MISTAKES.values(), ids=MISTAKES)
def test_other_mistakes_are_found(make: Make, mistake: Mistake, tmp_path: Path) -> None:
    wrong = plant(make(mistake.definition), mistake, tmp_path)
    assert results(wrong, mistake.check) == {mistake.check.name: FAILED}


def test_failures_tell_where(make: Make, tmp_path: Path) -> None:
    wrong = plant(make("llama"), QUICK_MISTAKES["a spread of ten percent more"], tmp_path)
    (row,) = verify(wrong.path, [initial_weights])["checks"]
    bad = {measured["where"].partition(" has ")[0] for measured in row["measured"] if not measured["holds"]}
    assert bad == {"model.embed_tokens.weight"}


def test_dropouts_and_options_are_found_by_name_and_declaration(make: Make, tmp_path: Path) -> None:
    subject = ModelUnderTest(make("llama").path, tmp_path)
    assert dropouts(subject.config()) == ["attention_dropout"]
    names = {option.name for option in options_of(subject.config())}
    assert {"hidden_size", "rope_parameters", "sliding_window"} <= names
    assert not {"use_cache", "skip_logits", "pad_token_id"} & names
    assert set(dropouts(NATIVE["GPT2Config"]())) >= {"attn_pdrop", "embd_pdrop", "resid_pdrop"}


def test_what_is_derived_is_derived_anew(make: Make, tmp_path: Path) -> None:
    subject = ModelUnderTest(make("qwen3").path, tmp_path)
    assert subject.underived() == {"layer_types": None, "use_sliding_window": None}
    config = subject.constructed({**subject.underived(), "num_hidden_layers": 5, "sliding_window": 4})
    assert config.layer_types == ["sliding_attention"] * 5
    with pytest.raises(ValueError, match="head_dim"):
        subject.constructed({"head_dim": 7})
    assert json.loads((subject.place / "config.json").read_text())["num_hidden_layers"] == 3
    torch.manual_seed(0)
    assert subject.fresh_model_of(config).config.num_hidden_layers == 5


def test_an_option_that_another_one_fixes_is_no_dead_one(tmp_path: Path) -> None:
    """The factors of longrope leave the head one size, which null stands for too."""
    factors = {"short_factor": [1.0] * 32, "long_factor": [2.0] * 32, "original_max_position_embeddings": 256}
    rope = {"rope_type": "longrope", "rope_theta": 10000.0} | factors
    settings = resolve(
        find_configuration("llama", registry(), Path()), {"output_dir": tmp_path / "x", "rope_parameters": rope}
    )
    construct(settings)
    (row,) = verify(tmp_path / "x", [options_matter], settings=settings)["checks"]
    assert row["result"] == PASSED
    told = [measured["what"] for measured in row["measured"] if measured["what"].startswith("head_dim")]
    assert told == ["head_dim: null means 64, and every other value is refused"]


def test_a_small_copy_has_positions_for_the_texts(tmp_path: Path) -> None:
    config = NATIVE["GPT2Config"]()
    config.n_positions = 16
    config.save_pretrained(tmp_path / "short")
    (tmp_path / "place").mkdir()
    assert ModelUnderTest(tmp_path / "short", tmp_path / "place").config().n_positions == 64
