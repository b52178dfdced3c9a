"""Plugins are found without importing, loaded one at a time, and broken ones do not affect others."""

from __future__ import annotations

import sys

import pytest

from forgather_core.errors import UnknownDefinitionError
from tests.support.plugins import PLUGIN, MakeRegistry

BROKEN = "import does_not_exist"
EXITS = "raise SystemExit('boom')"
MISSPELT = PLUGIN.replace("def forgather_models", "def forgather_modelz")
CLASH = PLUGIN.replace("hidden_size: int", "device: int")
RESERVED = PLUGIN.replace("sliding_window: int", "extends: int")
WRONG = "from forgather_core import hookimpl\n@hookimpl\ndef forgather_models():\n    return [3]\n"
NO_HOOK = "x = 1"
BAD_TARGET = PLUGIN.replace('"x.y:C"', '"x.y"')
NO_PRESET = PLUGIN.replace('default_preset="small"', 'default_preset="huge"')


@pytest.mark.regression("P4")
@pytest.mark.parametrize("name", ["partial_rotary_factor", "rope_theta", "id2label", "model_type", "to_dict"])
def test_a_name_that_transformers_uses_is_refused_when_options_are_read(make_registry: MakeRegistry, name: str) -> None:
    registry = make_registry(bad=PLUGIN.replace("sliding_window: int", f"{name}: int"))
    with pytest.raises(UnknownDefinitionError, match=f"the option '{name}' of 'NAME' has a name that transformers"):
        registry.definition("bad")


def test_every_attribute_of_a_configuration_is_reserved_or_may_be_an_option() -> None:
    import dataclasses

    from forgather_core.options.reserved_names import FOLDED_INTO_ROPE, RESERVED
    from forgather_core.parts.decoder_config import DecoderConfig

    names = {*dir(DecoderConfig), *(field.name for field in dataclasses.fields(DecoderConfig))}
    methods = {"derived", "problems", "unsupported_attention"}  # of options classes; `check_options` refuses options
    allowed = {"vocab_size", "max_position_embeddings", "use_cache", *methods}
    assert {name for name in names if name[0] != "_"} - allowed - FOLDED_INTO_ROPE <= RESERVED


def test_discovery_imports_nothing_and_a_lookup_imports_one(make_registry: MakeRegistry) -> None:
    registry = make_registry(good=None, other=None)
    assert {p.state for p in registry.plugins.values()} == {"found"}
    assert registry.definition("good").name == "good"
    assert registry.plugins["other"].state == "found"
    assert not any(name.startswith("made_up_other") for name in sys.modules)


@pytest.mark.parametrize(
    ("text", "error"),
    [
        (BROKEN, "ModuleNotFoundError: No module named 'does_not_exist'"),
        (EXITS, "SystemExit: boom"),
        (MISSPELT, "forgather_modelz"),
        (CLASH, "the option 'device' of 'NAME' conflicts with a shared option"),
        (RESERVED, "the option 'extends'"),
        (WRONG, "forgather_models() must yield ModelDefinition objects; got int"),
        (NO_HOOK, "forgather_models() is missing"),
        (BAD_TARGET, "expected 'package.module:Name', got 'x.y'"),
        (NO_PRESET, "the default preset 'huge' does not exist"),
        ("def broken(:", "SyntaxError"),
    ],
)
def test_a_broken_plugin_is_named_with_its_error_and_the_others_work(
    make_registry: MakeRegistry, text: str, error: str
) -> None:
    registry = make_registry(bad=text, good=None)
    with pytest.raises(UnknownDefinitionError) as caught:
        registry.definition("bad")
    message = str(caught.value)
    assert error in message
    assert "dist-bad 0.3" in message
    assert "\n" not in message
    assert registry.plugins["bad"].state == "broken"
    assert registry.definition("good").summary == "A sample"
    assert list(registry.names()) == ["good"]


def test_two_distributions_of_one_name_are_both_named(make_registry: MakeRegistry) -> None:
    registry = make_registry("dist-a", "dist-b", twin=None)
    with pytest.raises(UnknownDefinitionError, match="'dist-a' and 'dist-b'"):
        registry.definition("twin")


def test_two_plugins_with_one_definition_are_refused(make_registry: MakeRegistry) -> None:
    registry = make_registry(first=PLUGIN.replace("NAME", "same"), second=PLUGIN.replace("NAME", "same"))
    states = {p.name: p.state for p in registry.load_all()}
    assert states == {"first": "loaded", "second": "broken"}
    assert "the plugin 'first' already provides the definition 'same'" in str(registry.plugins["second"].error)


def test_a_plugin_may_provide_several_definitions(make_registry: MakeRegistry) -> None:
    registry = make_registry(
        pack=PLUGIN.replace("yield Model", "for n in ('a', 'b'): yield Model").replace('"NAME"', "n")
    )
    assert registry.definition("b").name == "b"
    assert list(registry.names()) == ["a", "b"]


def test_a_misspelt_hook_gets_a_hint(make_registry: MakeRegistry) -> None:
    registry = make_registry(bad=MISSPELT)
    registry.load_all()
    expected = "there is no hook 'forgather_modelz'. Did you mean 'forgather_models'?"
    assert registry.plugins["bad"].error == expected


def test_a_hook_of_a_later_version_may_be_optional(make_registry: MakeRegistry) -> None:
    later = PLUGIN + "\n\n@hookimpl(optionalhook=True)\ndef forgather_later():\n    yield\n"
    assert make_registry(good=later.replace("NAME", "good")).definition("good").summary == "A sample"


def test_unknown_names_get_a_hint(make_registry: MakeRegistry) -> None:
    registry = make_registry(llama=None)
    with pytest.raises(UnknownDefinitionError, match="Did you mean 'llama'"):
        registry.definition("lama")
    with pytest.raises(UnknownDefinitionError, match=r": use llama$"):
        registry.definition("zzz")


def test_plugins_can_be_disabled(make_registry: MakeRegistry, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORGATHER_DISABLE_PLUGINS", "bad, other")
    registry = make_registry(bad=BROKEN, good=None)
    assert registry.plugins["bad"].state == "disabled"
    with pytest.raises(UnknownDefinitionError, match="disabled by FORGATHER_DISABLE_PLUGINS"):
        registry.definition("bad")
    assert [p.state for p in registry.load_all()] == ["disabled", "loaded"]


def test_presets_are_sorted_by_size(make_registry: MakeRegistry) -> None:
    registry = make_registry(good=None)
    assert registry.definition("good").preset_names() == ["tiny-2M", "small"]
