"""A misspelt member of a plugin's class is refused when the class is imported, instead of having no effect."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pytest

from forgather_core import ModelDefinition, option
from forgather_core.definitions import contracts
from forgather_core.definitions.contracts import check_config, check_model, check_options
from forgather_core.definitions.registry import registry
from forgather_core.errors import DefinitionError, UnknownDefinitionError
from forgather_core.parts.decoder import Decoder
from forgather_core.parts.decoder_config import DecoderConfig
from forgather_core.parts.language_model import CausalLM
from forgather_core.parts.option_groups import OptionGroup
from tests.support.plugins import PLUGIN, MakeRegistry

PACKAGES = Path(__file__).parents[2] / "packages"


@dataclass(kw_only=True)
class Options:
    """One option, and helpers with names of their own."""

    hidden_size: int = option(64, help="Size", ge=1)
    derivative: int = option(1, help="Order", ge=1)

    def get_problems(self) -> list[str]:
        """A helper."""
        return []

    @property
    def number_of_heads(self) -> int:
        """A helper."""
        return 4


def method(self: Any) -> Any:
    """Return nothing."""


def with_argument(self: Any, strict: bool) -> Any:
    """Return nothing."""


def with_default(self: Any, strict: bool = False) -> Any:
    """Return nothing."""


def made(name: str, value: Any, *bases: type) -> type:
    """Return a class that defines one member."""
    return type("Made", bases, {name: value, "__module__": "a_plugin"})


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("problem", "problems"),
        ("Problems", "problems"),
        ("probelms", "problems"),
        ("derive", "derived"),
        ("derives", "derived"),
        ("unsuported_attention", "unsupported_attention"),
        ("unsupported_attentions", "unsupported_attention"),
        ("native_problem", "native_problems"),
    ],
)
@pytest.mark.parametrize("base", [Options, OptionGroup])
def test_a_misspelt_method_of_the_options_is_refused(name: str, meant: str, base: type) -> None:
    with pytest.raises(DefinitionError) as caught:
        check_options(dataclass(kw_only=True)(made(name, method, base)), "llama")
    error = caught.value
    assert error.problem == f"'llama': Made.{name} is not a member that Forgather reads"
    assert error.hint == f"Did you mean '{meant}'?"
    assert (error.file, error.line) == (__file__, method.__code__.co_firstlineno)


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        ({"a": 1}, "must be a method, got a dict"),
        (property(method), "must be a method, got a property"),
        (functools.cached_property, "must be a method, got a cached_property"),
        (with_argument, "must take (self), got (self: 'Any', strict: 'bool')"),
        (staticmethod(method), "must take (self), got (self: 'Any')"),
    ],
)
@pytest.mark.parametrize("name", ["problems", "derived", "unsupported_attention", "native_problems"])
def test_a_method_of_the_options_with_other_arguments_is_refused(name: str, value: Any, problem: str) -> None:
    value = value(method) if isinstance(value, type) else value  # a cached property has one name
    with pytest.raises(DefinitionError) as caught:
        check_options(dataclass(kw_only=True)(made(name, value, Options)), "llama")
    assert caught.value.problem == f"'llama': Made.{name} {problem}"


@pytest.mark.parametrize("value", [method, with_default, classmethod(method), staticmethod(lambda: None)])
def test_every_kind_of_method_that_takes_no_argument_is_accepted(value: Any) -> None:
    check_options(dataclass(kw_only=True)(made("problems", value, Options)), "llama")


def test_an_option_with_the_name_of_a_method_is_refused() -> None:
    @dataclass(kw_only=True)
    class Named:
        derived: dict[str, Any] = option({}, help="Values")

    with pytest.raises(DefinitionError, match=r"'llama': Named\.derived must be a method, got an option"):
        check_options(Named, "llama")


@pytest.mark.parametrize(
    ("name", "value", "meant"),
    [
        ("native_model_typ", "llama", "native_model_type"),
        ("also_read", ("mistral",), "also_reads"),
        ("builtin", {"hidden_act": "silu"}, "built_in"),
        ("native_ignore", ("sliding_window",), "native_ignores"),
        ("native_default", {"a": 1}, "native_defaults"),
        ("unsuported_attention", method, "unsupported_attention"),
    ],
)
def test_a_misspelt_attribute_of_the_configuration_is_refused(name: str, value: Any, meant: str) -> None:
    with pytest.raises(DefinitionError, match=rf"'llama': Made\.{name} is not .*\. Did you mean '{meant}'\?$"):
        check_config(made(name, value, Options, DecoderConfig), Options, "llama")


@pytest.mark.parametrize(
    ("name", "value", "problem"),
    [
        ("native_model_type", ("llama",), "must be a str or None, got a tuple"),
        ("also_reads", "mistral", "must be a tuple or list, got a str"),
        ("built_in", ("hidden_act",), "must be a mapping, got a tuple"),
        ("native_ignores", "sliding_window", "must be a tuple or list, got a str"),
        ("native_defaults", None, "must be a mapping, got a NoneType"),
    ],
)
def test_an_attribute_of_the_configuration_of_another_type_is_refused(name: str, value: Any, problem: str) -> None:
    with pytest.raises(DefinitionError) as caught:
        check_config(made(name, value, Options, DecoderConfig), Options, "llama")
    assert caught.value.problem == f"'llama': Made.{name} {problem}"


@pytest.mark.parametrize(
    ("base", "name", "meant"),
    [
        (CausalLM, "decoder_cls", "decoder_class"),
        (CausalLM, "initial_weight", "initial_weights"),
        (Decoder, "initial_weight", "initial_weights"),
        (Decoder, "prepares", "prepare"),
        (Decoder, "backend_problems", "backend_problem"),
    ],
)
def test_a_misspelt_member_of_a_model_is_refused(base: type, name: str, meant: str) -> None:
    cls = made(name, method, base)
    model = cls if base is CausalLM else type("Model", (CausalLM,), {"decoder_class": cls, "__module__": "a_plugin"})
    with pytest.raises(DefinitionError, match=rf"'llama': Made\.{name} is not .*\. Did you mean '{meant}'\?$"):
        check_model(model, "llama")


def test_prepare_takes_embeddings_and_positions() -> None:
    with pytest.raises(DefinitionError, match=r"Made\.prepare must take \(self, inputs_embeds, position_ids\), got"):
        check_model(made("prepare", method, Decoder), "llama")


def test_a_misspelt_method_breaks_the_plugin_that_has_it(make_registry: MakeRegistry) -> None:
    plugins = make_registry(bad=PLUGIN.replace("def problems", "def problem"), good=None)
    with pytest.raises(UnknownDefinitionError, match=r"Options\.problem is not .*\. Did you mean 'problems'\?"):
        plugins.definition("bad")
    assert plugins.definition("good").name == "good"


def test_a_misspelt_attribute_is_refused_when_the_class_is_imported(make_registry: MakeRegistry) -> None:
    class Config(Options, DecoderConfig):  # type: ignore[misc]
        also_read: ClassVar[tuple[str, ...]] = ("llama",)

    globals()["Config"] = Config
    definition = ModelDefinition(
        name="llama", summary="", options=Options, config=f"{__name__}:Config", model=f"{__name__}:Config"
    )
    with pytest.raises(DefinitionError, match="Did you mean 'also_reads'"):
        definition.config_class()


@pytest.mark.parametrize("name", ["causal_lm", "deepone", "llama", "mistral", "qwen3", "single_head"])
def test_the_classes_of_each_definition_are_accepted(name: str) -> None:
    definition = registry().definition(name)
    assert definition.config_class().model_type
    assert contracts.decoder_class(definition.model_class()) is not None


@pytest.mark.parametrize(
    ("folder", "module"), [("parallel_lm", "parallel_lm.plugin"), ("older_lm", "forgather_older_lm.plugin")]
)
def test_the_classes_of_third_party_plugins_are_accepted(
    folder: str, module: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import importlib

    monkeypatch.syspath_prepend(str(PACKAGES / folder))
    (definition,) = importlib.import_module(module).forgather_models()
    check_options(definition.options, definition.name)
    assert definition.config_class().model_type
    assert contracts.decoder_class(definition.model_class()) is not None


def test_members_that_a_class_does_not_define_have_defaults() -> None:
    nothing = object()
    assert [*contracts.problems(nothing), *contracts.native_problems(nothing), *contracts.also_reads(nothing)] == []
    assert contracts.derived(nothing) == contracts.unsupported_attention(nothing) == contracts.built_in(nothing) == {}
    assert contracts.native_model_type(nothing) is None
    assert contracts.initial_weights(nothing) is None
    assert contracts.decoder_class(nothing) is None
    assert contracts.backend_problem(nothing) is None
