"""`--from-config`: the model equals that of transformers for the same config.json, and unread keys are reported."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from forgather_llama.configuration_llama import LlamaConfig
from forgather_llama.modeling_llama import LlamaModel
from forgather_mistral.configuration_mistral import MistralConfig
from forgather_qwen3.configuration_qwen3 import Qwen3Config
from huggingface_hub.errors import StrictDataclassError
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from transformers import AutoConfig, AutoModelForCausalLM

from forgather_core.commands.construct import construct
from forgather_core.definitions.definition import import_object
from forgather_core.definitions.registry import Registry
from forgather_core.errors import ConfigurationError
from forgather_core.parts.rope import Rope
from forgather_core.report.construction import construction_report
from forgather_core.settings.layers import find_configuration
from forgather_core.settings.resolve import resolve
from forgather_core.settings.resolved_model import TOKEN_IDS, ResolvedModel

BASE: dict[str, Any] = {
    "vocab_size": 300,
    "hidden_size": 32,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 128,
    "bos_token_id": None,
    "eos_token_id": None,
    "pad_token_id": None,
}
KINDS = ("llama", "mistral", "qwen3", "smollm3")
TOLERANCE = 2e-5  # float32, relative to the root mean square of logits of two layers
LENGTH = 16
FACTORS = {"short_factor": [1.0, 1.2, 1.4, 1.6], "long_factor": [1.0, 2.0, 4.0, 8.0]}
SCALED: dict[str, dict[str, Any]] = {
    "yarn": {"factor": 4.0},
    "longrope": {"factor": 4.0, **FACTORS},
    "llama3": {"factor": 4.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0},
    "dynamic": {"factor": 4.0},
    "linear": {"factor": 4.0},
}


def write(directory: Path, kind: str, **content: Any) -> Path:
    """Write a directory that contains only a config.json."""
    directory.mkdir(exist_ok=True)
    whole = BASE | {"model_type": kind} | content
    (directory / "config.json").write_text(json.dumps({k: v for k, v in whole.items() if v != "absent"}))
    return directory


def from_directory(directory: Path, definition: str, **flags: Any) -> ResolvedModel:
    return resolve(
        find_configuration(definition, Registry(), Path()), {"from_config": directory, "tokenizer": "bytes"} | flags
    )


def model_of(resolved: ResolvedModel) -> Any:
    """Return the model that `construct` builds, without writing a directory."""
    definition = resolved.definition
    values = {name: value for name, value in resolved.config.items() if name not in TOKEN_IDS}
    return import_object(definition.model, definition)(import_object(definition.config, definition)(**values)).eval()


def native_of(directory: Path) -> Any:
    """Return the model that transformers builds from the same file."""
    return AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(directory), dtype=torch.float32).eval()


@torch.no_grad()
def difference(directory: Path, definition: str) -> float:
    """Return the relative difference of the logits with equal weights, at positions on both sides of 32 and of 128."""
    return compared(model_of(from_directory(directory, definition)), native_of(directory))


@torch.no_grad()
def compared(model: Any, native: Any) -> float:
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        drawn = torch.randn(parameter.shape, generator=generator)
        parameter.copy_(1 + 0.2 * drawn if parameter.dim() == 1 else drawn * 1.5 * parameter.shape[-1] ** -0.5)
    native.load_state_dict(model.state_dict())
    ids = torch.randint(3, 300, (1, LENGTH), generator=generator)
    worst = [torch.zeros(())]
    for end in (LENGTH, 32, 33, 40, 128, 129, 140, 300):
        positions = torch.arange(end - LENGTH, end)[None]
        a, b = (each(ids, position_ids=positions, use_cache=False).logits for each in (model, native))
        worst.append((a - b).abs().max() / b.square().mean().sqrt())
    return float(torch.stack(worst).max())


@pytest.mark.few(15)
@pytest.mark.parametrize("spelling", ["type", "rope_type", "rope_parameters"])
@pytest.mark.parametrize(
    "rope",
    [
        *(pytest.param(rope, marks=pytest.mark.regression("R5")) for rope in ("yarn", "longrope", "llama3")),
        "dynamic",  # uses max_position_embeddings
        "linear",
    ],
)
@pytest.mark.parametrize("kind", KINDS)
def test_the_original_length_may_be_outside_the_scaling(kind: str, rope: str, spelling: str, tmp_path: Path) -> None:
    key, name = ("rope_parameters", "rope_type") if spelling == "rope_parameters" else ("rope_scaling", spelling)
    content = {key: {name: rope, **SCALED[rope]}, "original_max_position_embeddings": 32, "rope_theta": 5000.0}
    assert difference(write(tmp_path, kind, **content), kind) <= TOLERANCE


@pytest.mark.regression("R5")
def test_the_configuration_takes_the_length_as_a_keyword_too() -> None:
    config = LlamaConfig(rope_scaling={"type": "yarn", "factor": 4.0}, original_max_position_embeddings=32)
    assert config.rope_parameters["original_max_position_embeddings"] == 32
    assert "original_max_position_embeddings" not in config.to_dict()
    again = LlamaConfig(**config.to_dict())
    assert again.rope_parameters == config.rope_parameters


@pytest.mark.regression("R6")
@pytest.mark.parametrize("stray", [{"sliding_window": 7}, {"sliding_window": 7, "use_sliding_window": True}])
def test_keys_that_the_native_class_ignores_have_no_effect(stray: dict[str, Any], tmp_path: Path) -> None:
    directory = write(tmp_path, "llama", **stray)
    assert from_directory(directory, "llama").options.sliding_window is None
    assert difference(directory, "llama") <= TOLERANCE


@pytest.mark.parametrize(
    "config_class",
    [*(pytest.param(one, marks=pytest.mark.regression("R6")) for one in (LlamaConfig, Qwen3Config)), MistralConfig],
)
def test_the_configuration_class_reads_the_window_of_a_native_file_as_transformers_does(
    config_class: Any, tmp_path: Path
) -> None:
    kind = config_class.native_model_type
    for window in ({}, {"sliding_window": None}, {"sliding_window": 7}):
        directory = write(tmp_path, kind, **window)
        found, native = config_class.from_pretrained(directory), AutoConfig.from_pretrained(directory)
        expected = None if kind == "llama" else native.sliding_window
        assert found.native and found.sliding_window == expected
        assert getattr(found, "layer_types", None) == getattr(native, "layer_types", None)


# What a config.json may say beside sizes. "absent" leaves a key out: its class has a default.
def rope_scalings() -> st.SearchStrategy[Any]:
    original = {"original_max_position_embeddings": st.sampled_from([16, 32])}
    factor = st.sampled_from([1.0, 2.0, 4])
    yarn = {
        "attention_factor": st.sampled_from([0.8, None]),
        "beta_fast": st.sampled_from([32, 16.0, None]),
        "beta_slow": st.sampled_from([1, 2.0, None]),
        "mscale": st.sampled_from([0.7, 0]),
        "mscale_all_dim": st.sampled_from([0.9, 1]),
        "truncate": st.sampled_from([True, False, None]),
    }
    unknown = {"finetuned": st.just(True), "mrope_section": st.just([2, 1, 1]), "rope_theta": st.just(700.0)}
    kinds = {
        "default": ({}, {"factor": factor} | original),
        "linear": ({"factor": factor}, original),
        "dynamic": ({"factor": factor}, original),
        "yarn": ({"factor": factor}, original | yarn),
        "longrope": (
            {name: st.just(value) for name, value in FACTORS.items()},
            original | {"factor": factor, "attention_factor": st.sampled_from([1.1, None])},
        ),
        "llama3": (
            {"factor": factor, "low_freq_factor": st.just(1.0), "high_freq_factor": st.sampled_from([4.0, 8])},
            original,
        ),
    }
    return st.one_of(
        st.fixed_dictionaries({name: st.just(kind), **required}, optional=more | unknown)
        for kind, (required, more) in kinds.items()
        for name in ("type", "rope_type")
    )


def contents(kind: str) -> st.SearchStrategy[dict[str, Any]]:
    sliding = {
        "sliding_window": st.sampled_from([None, 5, 4096]),
        "use_sliding_window": st.booleans(),
        "max_window_layers": st.sampled_from([0, 1, 2, 28]),
    }
    optional: dict[str, st.SearchStrategy[Any]] = {
        "rope_scaling": st.none() | rope_scalings(),
        "rope_parameters": rope_scalings(),
        "rope_theta": st.sampled_from([300.0, 10000]),
        "original_max_position_embeddings": st.sampled_from([16, 32, 64]),
        "partial_rotary_factor": st.just(1.0),
        "head_dim": st.sampled_from([8, "absent"]) if kind == "qwen3" else st.sampled_from([8, None, "absent"]),
        "num_key_value_heads": st.sampled_from([1, 2, 4, "absent"]),
        "num_attention_heads": st.sampled_from([4, 8]),
        "max_position_embeddings": st.sampled_from([64, 128, "absent"]),
        "rms_norm_eps": st.sampled_from([1e-5, 0.1]),
        "tie_word_embeddings": st.booleans(),
        "hidden_act": st.sampled_from(["silu", "swish"]),
        "attention_bias": st.just(False),
        "mlp_bias": st.just(False),
        "attention_dropout": st.sampled_from([0, 0.0, 0.1]),
        "initializer_range": st.just(0.5),
        "pretraining_tp": st.just(2),
        "torch_dtype": st.just("float32"),
        "use_cache": st.booleans(),
        "rope_interleaved": st.booleans(),
        "qk_norm": st.booleans(),
        "attn_logit_softcapping": st.just(30.0),
        "logit_scale": st.just(0.5),
        "layer_types": st.sampled_from([["full_attention"] * 2, ["sliding_attention"] * 2])
        if kind != "qwen3"
        else st.none(),
        "pad_token_id": st.sampled_from([None, 0, 5]),
        "temperature": st.just(0.5),
        **sliding,
    }
    if kind == "smollm3":
        kinds = st.sampled_from(["full_attention", "sliding_attention"])
        optional |= {
            "layer_types": st.none() | st.lists(kinds, min_size=2, max_size=2),
            "no_rope_layers": st.sampled_from([None, [1, 0], [0, 1], [1, 1], [0, 0, 1]]),
            "no_rope_layer_interval": st.sampled_from([1, 2, 4]),
        }
    return st.fixed_dictionaries({}, optional=optional)


SOME = settings(
    max_examples=20,
    deadline=None,
    derandomize=True,
    phases=[Phase.generate],  # shrinking a failure takes minutes
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large],
)


@pytest.mark.few(1)
@pytest.mark.regression("like-native")
@pytest.mark.parametrize("kind", KINDS)
def test_any_file_has_the_logits_of_its_own_class(kind: str, tmp_path: Path) -> None:
    computed = []

    @SOME
    @given(content=contents(kind))
    def holds(content: dict[str, Any]) -> None:
        directory = write(tmp_path, kind, **content)
        try:
            native = native_of(directory)
            native(torch.arange(LENGTH)[None], use_cache=False)
        except (AttributeError, ValueError, TypeError, RuntimeError, StrictDataclassError):
            return  # transformers cannot compute it either
        computed.append(content)
        assert compared(model_of(from_directory(directory, kind)), native) <= TOLERANCE, content

    holds()
    assert len(computed) > 5


REFUSED: dict[str, tuple[str, dict[str, Any], str]] = {
    "parameters by kind of layer": (
        "llama",
        {"rope_parameters": {kind: {"rope_type": "default", "rope_theta": 1e4} for kind in ("full_attention", "x")}},
        "rope_parameters",
    ),
    "a part of a head": (
        "qwen3",
        {"rope_parameters": {"rope_type": "yarn", "factor": 2.0, "partial_rotary_factor": 0.5}},
        "partial_rotary_factor: must be 1 for rope_type 'yarn'",
    ),
    "layers of two kinds": ("mistral", {"layer_types": ["full_attention", "sliding_attention"]}, "layer_types"),
    "a dtype that torch does not have": ("mistral", {"torch_dtype": "auto"}, "'auto'"),
    "no heads": ("llama", {"num_attention_heads": 0}, "Error: "),
    "not a number": ("llama", {"rms_norm_eps": float("nan")}, "NaN is not valid JSON"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_unsupported_keys_are_refused_by_name(case: str, tmp_path: Path) -> None:
    kind, content, reason = REFUSED[case]
    with pytest.raises(ConfigurationError, match=reason) as refused:
        from_directory(write(tmp_path, kind, **content), kind)
    assert "\n" not in str(refused.value) and "config.json" in str(refused.value)


UNREAD: dict[str, tuple[str, dict[str, Any], set[str]]] = {
    "a class without windows": ("llama", {"sliding_window": 7}, {"sliding_window"}),
    "a field of another class": ("mistral", {"attention_bias": False, "qk_norm": True}, {"attention_bias", "qk_norm"}),
    "the default RoPE has no factor": (
        "qwen3",
        {"rope_scaling": {"type": "default", "factor": 4.0, "beta_fast": None}},
        {"rope_scaling.factor"},
    ),
    "a scaling that another one replaces": (
        "llama",
        {"rope_scaling": {"type": "linear", "factor": 2.0}, "rope_parameters": {"rope_type": "default"}},
        {"rope_parameters"},
    ),
    "a theta that another one replaces": (
        "llama",
        {"rope_parameters": {"rope_type": "default", "rope_theta": 500.0}, "rope_theta": 1e6},
        {"rope_theta"},
    ),
    "a length that the type does not use": ("llama", {"original_max_position_embeddings": 32}, {"original_max_posit"}),
    "rotation of a part": ("mistral", {"partial_rotary_factor": 0.5}, {"partial_rotary_factor"}),
    "somebody's code": ("llama", {"auto_map": {"AutoConfig": "configuration_x.XConfig"}}, {"auto_map"}),
    "settings of generation": ("llama", {"temperature": 0.5}, {"temperature"}),
    "nothing": (
        "llama",
        {
            "initializer_range": 0.1,
            "pretraining_tp": 2,
            "use_cache": False,
            "torch_dtype": "bfloat16",
            "rope_scaling": None,
        }
        | {"_name_or_path": "x", "transformers_version": "4.38.0", "partial_rotary_factor": 1.0, "qk_norm": None},
        set(),
    ),
}


@pytest.mark.regression("like-native")
@pytest.mark.few(2)
@pytest.mark.parametrize("case", UNREAD)
def test_construct_reports_keys_that_are_not_read(case: str, tmp_path: Path) -> None:
    kind, content, names = UNREAD[case]
    settings = from_directory(write(tmp_path / "theirs", kind, **content), kind)
    notes = [
        note for note in construction_report(construct(settings, project=tmp_path))["notes"] if "is not read" in note
    ]
    assert len(notes) == len(names)
    assert all(any(name in note for note in notes) for name in names)


def test_many_unread_keys_are_counted(tmp_path: Path) -> None:
    notes = from_directory(
        write(tmp_path, "llama", **{f"key_{i}": i for i in range(1000)}), "llama"
    ).source_config.notes
    assert len(notes) == 21
    assert notes[-1] == "--from-config: 980 more keys are not read"


def changed_prepare(factor: float, monkeypatch: pytest.MonkeyPatch) -> None:
    prepare = LlamaModel.prepare
    monkeypatch.setattr(LlamaModel, "prepare", lambda self, x, p: prepare(self, x * factor, p))


@pytest.mark.few(1)
@pytest.mark.regression("like-native")
@pytest.mark.parametrize("factor", [1.01, float("nan")])
def test_other_logits_than_the_native_class_are_refused(
    factor: float, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    changed_prepare(factor, monkeypatch)
    settings = from_directory(write(tmp_path / "theirs", "llama"), "llama")  # as far as `show` goes
    with pytest.raises(
        ConfigurationError, match=r"--from-config: .*config.json: .*LlamaForCausalLM.*logits of a small copy"
    ):
        construct(settings, project=tmp_path)
    assert [entry.name for entry in tmp_path.iterdir()] == ["theirs"]


NOT_COMPUTED: dict[str, tuple[dict[str, Any], str]] = {
    "padding beyond the vocabulary": ({"pad_token_id": 300}, "AssertionError: Padding_idx.*without.* pad_token_id"),
    # transformers rejects the file without hidden_size, whose default is not a multiple of 9.
    "a key that no class declares": (
        {"is_causal": False, "hidden_size": 36, "num_attention_heads": 9, "num_key_value_heads": 3},
        r"\(without is_causal they agree\)",
    ),
}


@pytest.mark.few(1)
@pytest.mark.regression("like-native")
@pytest.mark.parametrize("case", NOT_COMPUTED)
def test_configurations_that_fail_are_refused_in_one_line(case: str, tmp_path: Path) -> None:
    content, reason = NOT_COMPUTED[case]
    settings = from_directory(write(tmp_path / "theirs", "llama", head_dim=None, **content), "llama")
    with pytest.raises(ConfigurationError, match=rf"--from-config: .*config.json: .*{reason}") as refused:
        construct(settings, project=tmp_path)
    assert "\n" not in str(refused.value)


def test_the_form_of_outputs_does_not_matter(tmp_path: Path) -> None:
    settings = from_directory(write(tmp_path / "theirs", "llama", return_dict=False), "llama")
    assert settings.source_config is not None and settings.source_config.notes == ()
    construct(settings, project=tmp_path)


@pytest.mark.regression("like-native")
def test_the_key_that_is_read_differently_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    frequencies = Rope._frequencies

    def without_scaling(self: Rope, *args: Any) -> Any:
        kept, self.rope_type = self.rope_type, "default"
        try:
            return frequencies(self, *args)
        finally:
            self.rope_type = kept

    monkeypatch.setattr(Rope, "_frequencies", without_scaling)
    content = {"rope_scaling": {"type": "linear", "factor": 4.0}, "rms_norm_eps": 1e-5}
    with pytest.raises(ConfigurationError, match=r"without rope_scaling they agree"):
        construct(from_directory(write(tmp_path / "theirs", "llama", **content), "llama"), project=tmp_path)


def test_parameters_are_compared_at_full_width(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from forgather_core.settings import native_config as source_config

    values = source_config._native_values
    monkeypatch.setattr(source_config, "_native_values", lambda *args: values(*args) | {"vocab_size": 299})
    with pytest.raises(ConfigurationError, match=r"lm_head.weight, model.embed_tokens.weight differ in shape"):
        construct(from_directory(write(tmp_path / "theirs", "llama"), "llama", tokenizer="bytes"), project=tmp_path)


def test_a_native_directory_written_by_forgather_has_no_unread_keys(tmp_path: Path) -> None:
    options = {name: BASE[name] for name in ("hidden_size", "intermediate_size", "num_hidden_layers")}
    first = resolve(
        find_configuration("qwen3/4M", Registry(), tmp_path), {"tokenizer": "bytes", "native": True} | options
    )
    made = construct(first, project=tmp_path)
    again = from_directory(made.directory.path, "qwen3")
    assert again.source_config is not None and again.source_config.notes == ()
    assert model_of(again).config.to_dict() == model_of(first).config.to_dict()
