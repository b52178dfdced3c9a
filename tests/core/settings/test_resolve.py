"""Resolution of settings: defaults < preset < YAML < flags, origins, errors with file and line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from forgather_core.definitions.registry import Registry
from forgather_core.errors import ConfigurationError, ForgatherError, TokenizerError, UnknownDefinitionError
from forgather_core.settings.layers import find_configuration, is_configuration, project_files
from forgather_core.settings.resolve import resolve
from forgather_core.settings.resolved_model import ResolvedModel, derived_values
from tests.support.plugins import PLUGIN, MakeRegistry


@pytest.fixture
def registry(make_registry: MakeRegistry) -> Registry:
    return make_registry(sample=None)


def resolved(registry: Registry, template: str, project: Path, **flags: Any) -> ResolvedModel:
    return resolve(find_configuration(template, registry, project), flags)


def test_the_order_of_layers_and_their_origins(registry: Registry, tmp_path: Path) -> None:
    (tmp_path / "base.yaml").write_text("extends: sample/small\nnum_attention_heads: 8\nrms_norm_eps: 1e-6\n")
    (tmp_path / "top.yaml").write_text("extends: base\n\nrms_norm_eps: 1e-4\nsliding_window: ${hidden_size}\n")
    found = resolved(registry, "top", tmp_path, num_attention_heads="2", device="cpu")
    options = found.options
    assert (options.hidden_size, options.num_attention_heads, options.rms_norm_eps) == (128, 2, 1e-4)
    assert options.sliding_window == 128
    labels = {name: origin.label for name, origin in found.origins.items()}
    assert labels["hidden_size"] == "sample/small"
    assert labels["num_attention_heads"] == "--num-attention-heads"
    assert labels["rms_norm_eps"] == "top.yaml:3"
    assert labels["tie_word_embeddings"] == "default"
    assert labels["device"] == "--device"
    assert found.build.device == "cpu"
    assert found.model_name == "top"


def test_a_bare_name_is_its_default_preset(registry: Registry, tmp_path: Path) -> None:
    found = resolved(registry, "sample", tmp_path)
    assert found.configuration.name == "sample/small"
    assert found.model_name == "sample_small"
    assert found.target(Path("here")) == Path("here/output_models/sample_small")
    assert found.configuration.notes == {"source": "https://example.org", "parameters": 7}


@pytest.mark.parametrize("name", ["exp.yaml", "exp", "configs/exp.yaml"])
def test_files_are_found_in_the_project_and_its_configs(registry: Registry, tmp_path: Path, name: str) -> None:
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "exp.yaml").write_text("extends: sample\n")
    (tmp_path / "other.yaml").write_text("a: 1\n")
    assert resolved(registry, name, tmp_path).model_name == "exp"
    assert list(project_files(tmp_path)) == ["exp", "other"]
    assert [p.stem for p in project_files(tmp_path).values() if is_configuration(p)] == ["exp"]


def test_a_given_mapping_replaces_the_old_one(registry: Registry, tmp_path: Path) -> None:
    found = resolved(registry, "sample", tmp_path, rope_parameters={"rope_type": "linear", "factor": 2.0})
    assert found.options.rope_parameters == {"rope_type": "linear", "factor": 2.0}


def test_derived_values_replace_only_null(registry: Registry, tmp_path: Path) -> None:
    assert derived_values(resolved(registry, "sample", tmp_path).options) == {"head_dim": 32}
    assert derived_values(resolved(registry, "sample", tmp_path, head_dim=8).options) == {}


def test_the_base_of_relative_output_directories(registry: Registry, tmp_path: Path) -> None:
    (tmp_path / "exp.yaml").write_text("extends: sample\noutput_dir: out\n")
    assert resolved(registry, "exp", tmp_path).target(tmp_path) == tmp_path / "out"
    assert resolved(registry, "exp", tmp_path, output_dir="x").target(tmp_path) == Path("x")


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("a: [1\n", "exp.yaml:2:1: "),
        ("a: [1\n", ": correct the YAML"),
        (
            "extends: sample\nhiden_size: 1\n",
            "exp.yaml:2:1: hiden_size: 'sample' has no such option. Did you mean 'hidden_size'?",
        ),
        ("extends: sample\nhidden-size: 1\n", "Did you mean 'hidden_size'?"),
        ("extends: sample\nhidden_size: big\n", "exp.yaml:2:1: hidden_size: expected an integer, got 'big'"),
        ("extends: sample\nhidden_size: 0\n", "exp.yaml:2:1: hidden_size must be at least 1, got 0"),
        ("extends: sample\nhidden_size: ${nope}\n", "exp.yaml:2:1: hidden_size: Interpolation key 'nope' not found"),
        ("extends: sample\nhidden_size: ${hidden_size}\n", "exp.yaml:2:1: hidden_size: "),
        ("extends: sample\nhidden_size: null\n", "exp.yaml:2:1: hidden_size: null is not allowed"),
        (
            "extends: sample\nnum_attention_heads: 3\n",
            "exp.yaml:2:1: num_attention_heads must divide hidden_size (128), got 3",
        ),
        ("extends: sample\nmodel_name: a/b\n", "exp.yaml:2:1: model_name: 'a/b' is not a valid directory name"),
        ("extends: sample\nmodel_name: ..\n", "is not a valid directory name"),
        ("extends: sample\nattn_implementation: sdp\n", "Did you mean 'sdpa'?"),
        ("hidden_size: 1\n", "extends is missing"),
        ("extends: samle\n", "exp.yaml:1:1: extends: no model definition named 'samle'. Did you mean 'sample'?"),
        ("extends: exp.yaml\n", "exp.yaml:1:1: extends: 'exp.yaml' extends this file"),
        ("- 1\n", "expected a mapping"),
        ("words\n", "expected a mapping"),
        ("extends: sample\nextends: sample\n", "exp.yaml:2:1: duplicate key 'extends'"),
    ],
)
def test_errors_name_file_line_and_fix(registry: Registry, tmp_path: Path, text: str, error: str) -> None:
    (tmp_path / "exp.yaml").write_text(text)
    with pytest.raises(ConfigurationError) as caught:
        resolved(registry, "exp", tmp_path)
    assert error in str(caught.value)
    assert "\n" not in str(caught.value)


def test_errors_carry_the_place_of_the_value(registry: Registry, tmp_path: Path) -> None:
    file = tmp_path / "exp.yaml"
    file.write_text("extends: sample\nattn_implementation: sdp\n")
    with pytest.raises(ConfigurationError) as in_file:
        resolved(registry, "exp", tmp_path)
    error = in_file.value
    assert (error.option, error.file, error.line, error.column) == ("attn_implementation", str(file), 2, 1)
    assert error.problem.startswith("must be one of eager, ")
    assert error.hint == "Did you mean 'sdpa'?"
    with pytest.raises(ConfigurationError) as typed:
        resolved(registry, "sample", tmp_path, attn_implementation="sdp")
    assert (typed.value.option, typed.value.file, typed.value.hint) == ("--attn-implementation", None, error.hint)
    file.write_text("a: [")
    with pytest.raises(ConfigurationError) as malformed:
        resolved(registry, "exp", tmp_path)
    assert (malformed.value.file, malformed.value.line, malformed.value.column) == (str(file), 1, 5)


def test_values_that_only_together_break_a_rule_are_all_named(make_registry: MakeRegistry, tmp_path: Path) -> None:
    rule = "if self.rms_norm_eps == 0.5 or self.sliding_window == 3:\n            yield 'head_dim', 'must be odd'"
    text = PLUGIN.replace("NAME", "sample").replace("if self.hidden_size", f"{rule}\n        if self.hidden_size")
    plugins = make_registry(sample=text)
    (tmp_path / "exp.yaml").write_text("extends: sample\nrms_norm_eps: 0.5\nsliding_window: 3\n")
    with pytest.raises(ConfigurationError, match=r"exp\.yaml:2:1: rms_norm_eps with sliding_window: head_dim must"):
        resolved(plugins, "exp", tmp_path)
    with pytest.raises(ConfigurationError, match=r"^--rms-norm-eps with --sliding-window: head_dim must be odd$"):
        resolved(plugins, "sample", tmp_path, rms_norm_eps="0.5", sliding_window="3")


def test_a_missing_tokenizer_is_named_where_it_is_set(registry: Registry, tmp_path: Path) -> None:
    (tmp_path / "exp.yaml").write_text("extends: sample\ntokenizer: nope\n")
    with pytest.raises(TokenizerError, match=r"exp\.yaml:2:1: tokenizer: 'nope' does not exist: use a shipped one"):
        resolved(registry, "exp", tmp_path)
    with pytest.raises(TokenizerError, match=r"^--tokenizer: 'nope' does not exist: use a shipped one"):
        resolved(registry, "sample", tmp_path, tokenizer="nope")


def test_a_flag_is_named_as_it_is_typed(registry: Registry, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"^--num-attention-heads must divide hidden_size \(128\), got 3"):
        resolved(registry, "sample", tmp_path, num_attention_heads="3")


@pytest.mark.parametrize(
    ("template", "error"),
    [
        ("sample/Small", "Did you mean 'sample/small'?"),
        ("sample/zzzzzz", "use one of sample/tiny-2M, sample/small"),
        ("sampel", "Did you mean 'sample'?"),
        ("nowhere.yaml", "there is no configuration file 'nowhere.yaml'"),
        ("", "no model definition named ''"),
    ],
)
def test_unknown_templates_get_a_hint(registry: Registry, tmp_path: Path, template: str, error: str) -> None:
    with pytest.raises(UnknownDefinitionError) as caught:
        resolved(registry, template, tmp_path)
    assert error in str(caught.value)


def test_files_that_cannot_be_read(registry: Registry, tmp_path: Path) -> None:
    (tmp_path / "exp.yaml").write_bytes(b"\xff\xfe")
    with pytest.raises(ForgatherError, match="not UTF-8"):
        resolved(registry, "exp", tmp_path)


WRITTEN = ("1.10", "007", "1e3", "0x1F", "0o17", "1:30", "2026-01-01", "1_000", "no", "true", ".inf", "+1", "'1.10'")


@pytest.mark.regression("P12")
@pytest.mark.parametrize("text", WRITTEN)
def test_text_is_kept_as_written(registry: Registry, tmp_path: Path, text: str) -> None:
    (tmp_path / "base.yaml").write_text(f"extends: sample/small\noutput_dir: {text}\n")
    (tmp_path / "top.yaml").write_text(f"extends: base\nmodel_name: {text}\ntokenizer: x/${{model_name}}\n")
    found = resolved(registry, "top", tmp_path)
    plain = text.strip("'")
    assert (found.model_name, found.directory.tokenizer, found.directory.output_dir) == (
        plain, f"x/{plain}", Path(plain),
    )  # fmt: skip


@pytest.mark.regression("P12")
def test_other_text_of_a_file_is_kept_as_written(registry: Registry, tmp_path: Path) -> None:
    (tmp_path / "007.yaml").write_text("extends: sample/small\nhidden_size: 0100\n")
    (tmp_path / "top.yaml").write_text("extends: 007\ndescription: 1.10\nmodel_name: null\n")
    found = resolved(registry, "top", tmp_path)
    assert found.configuration.notes == {"description": "1.10"}
    assert (found.options.hidden_size, found.model_name) == (100, "top")


@pytest.mark.regression("P12")
@pytest.mark.parametrize("text", ["1:30", "1:30:00", "0100:5"])
def test_base_60_is_not_a_number(registry: Registry, tmp_path: Path, text: str) -> None:
    (tmp_path / "top.yaml").write_text(f"extends: sample/small\nhidden_size: {text}\n")
    with pytest.raises(ConfigurationError, match=r"top\.yaml:2:1: hidden_size: expected an integer, got "):
        resolved(registry, "top", tmp_path)


@pytest.mark.regression("P12")
@pytest.mark.parametrize("text", [".inf", "-.inf", ".nan", "inf", "1e999", "${oc.env:RATE}", "${source}"])
def test_numbers_are_finite_wherever_they_come_from(
    registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    monkeypatch.setenv("RATE", "inf")
    text = text.replace("source", "model_name")
    (tmp_path / "top.yaml").write_text(f"extends: sample/small\nmodel_name: .inf\nrms_norm_eps: {text}\n")
    with pytest.raises(ConfigurationError, match=r"top\.yaml:3:1: rms_norm_eps: .*number"):
        resolved(registry, "top", tmp_path)


@pytest.mark.regression("P18")
def test_a_byte_order_mark_is_ignored(registry: Registry, tmp_path: Path) -> None:
    (tmp_path / "top.yaml").write_text("extends: sample/small\nhidden_size: 256\n", encoding="utf-8-sig")
    assert resolved(registry, "top", tmp_path).options.hidden_size == 256
    (tmp_path / "bad.yaml").write_text("hidden_sze: 256\nextends: sample\n", encoding="utf-8-sig")
    with pytest.raises(ConfigurationError, match=r"bad\.yaml:1:1: hidden_sze: 'sample' has no such option"):
        resolved(registry, "bad", tmp_path)
