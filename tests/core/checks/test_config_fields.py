"""Fields that do not survive saving, loading or copying are found, and so is a model that changes with them."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
from transformers import GPT2Config

from forgather_core.checks.config_fields import config_fields
from forgather_core.checks.shared.model_under_test import ModelUnderTest
from forgather_core.checks.shared.option_fields import options_of
from forgather_core.checks.shared.other_values import alternatives
from forgather_core.checks.try_check import PASSED

from .planted import edited, failures, row_of, written

MODULE = sys.modules[config_fields.run.__module__]
CLASS = "class LlamaConfig(LlamaOptions, DecoderConfig):\n"


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return written("llama", tmp_path_factory.mktemp("fields"))


@pytest.fixture(autouse=True)
def few_options(monkeypatch: pytest.MonkeyPatch) -> None:
    """Check two options, which is faster."""
    names = ("rms_norm_eps", "attention_dropout")
    monkeypatch.setattr(MODULE, "options_of", lambda config: [o for o in options_of(config) if o.name in names])


def planted(llama: Path, place: Path, method: str) -> list[str]:
    """Return the failures of a configuration with a further method."""
    text = "".join(f"    {line}\n" for line in method.splitlines())
    return failures(
        row_of(edited(llama, place, "configuration_llama.py", CLASS, f"{CLASS}{text}\n"), config_fields, place)
    )


def test_a_correct_model_passes(llama: Path, tmp_path: Path) -> None:
    row = row_of(llama, config_fields, tmp_path)
    assert row["result"] == PASSED, failures(row)
    assert {"rms_norm_eps 0.01, saved and loaded twice", "rms_norm_eps 0.01: logits, eval"} <= {
        one["what"] for one in row["measured"]
    }


def test_a_model_without_options_is_checked_by_its_config_json(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(MODULE, "read_object", lambda _: {"layer_norm_epsilon": 1e-5, "n_layer": 1, "n_inner": None})
    GPT2Config(n_embd=16, n_layer=1, n_head=2, vocab_size=50, n_positions=32).save_pretrained(tmp_path / "gpt2")
    row = row_of(tmp_path / "gpt2", config_fields, tmp_path)
    assert row["result"] == PASSED, failures(row)
    assert any(one["what"].startswith("layer_norm_epsilon 0.01, pickle") for one in row["measured"])


METHODS = {
    "not saved": (
        "def to_dict(self):\n"
        "    return {name: value for name, value in super().to_dict().items() if name != 'rms_norm_eps'}",
        "rms_norm_eps 0.01, saved and loaded: rms_norm_eps: 0.01 becomes 1e-05",
    ),
    "derived again": (
        "def __post_init__(self, **kwargs):\n"
        "    self.attention_dropout = self.attention_dropout / 2\n"
        "    super().__post_init__(**kwargs)",
        "saved and loaded: attention_dropout: 0.25 becomes 0.125",
    ),
    "unknown fields": (
        "def __post_init__(self, **kwargs):\n"
        "    super().__post_init__(**{n: v for n, v in kwargs.items() if not n.startswith('extra_')})",
        "an unknown field of config.json is lost: 0.1 becomes null, at extra_number_of_a_check",
    ),
    "copies": (
        "def __deepcopy__(self, memo):\n    return type(self).from_dict(self.to_dict() | {'bos_token_id': 9})",
        "config.json, copy.deepcopy: bos_token_id: ",
    ),
    "pickles": (
        "def __reduce__(self):\n    return type(self).from_dict, (self.to_dict() | {'bos_token_id': 9},)",
        "config.json, pickle: bos_token_id: ",
    ),
    "raises": (
        "def __post_init__(self, **kwargs):\n"
        "    if kwargs.pop('seen', False):\n"
        "        raise ValueError('a second time')\n"
        "    super().__post_init__(**kwargs)\n"
        "def to_dict(self):\n"
        "    return {**super().to_dict(), 'seen': self.rms_norm_eps == 0.01}",
        "rms_norm_eps 0.01, saved and loaded: raises ValueError: a second time",
    ),
}


@pytest.mark.parametrize("mistake", METHODS)
def test_a_field_that_does_not_survive_is_named(mistake: str, llama: Path, tmp_path: Path) -> None:
    method, expected = METHODS[mistake]
    found = planted(llama, tmp_path, method)
    assert any(expected in text for text in found), found


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (
            {"intermediate_size": 16},
            "rms_norm_eps 0.01: the model of the loaded configuration has weights with other names or shapes, at",
        ),
        ({"tie_word_embeddings": True}, "the model of the loaded configuration has other initial weights"),
        ({"rms_norm_eps": 0.5}, "rms_norm_eps 0.01: the model of the loaded configuration has other logits in eval"),
        ({"attention_dropout": 0.9}, "the model of the loaded configuration has other logits in training"),
    ],
)
def test_a_model_that_changes_is_found(
    change: dict[str, Any], expected: str, llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    build = ModelUnderTest.fresh_model_of

    def changed(self: ModelUnderTest, config: Any, **options: Any) -> Any:
        if config.name_or_path != str(self.workdir):  # it was saved and loaded
            for name, value in change.items():
                setattr(config, name, value)
        return build(self, config, **options)

    monkeypatch.setattr(ModelUnderTest, "fresh_model_of", changed)
    found = failures(row_of(llama, config_fields, tmp_path))
    assert any(expected in text for text in found), found


def test_alternatives_differ_from_the_value() -> None:
    assert 4 not in [*alternatives(4, int)] and 8 in [*alternatives(4, int)]
    assert [*alternatives(True, bool)] == [False]
