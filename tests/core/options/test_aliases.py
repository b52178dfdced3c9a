"""Former names of options: the declaration gives the alias, and nothing shows it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

from forgather_core.definitions.registry import SHARED_OPTIONS, Registry
from forgather_core.errors import ConfigurationError, UnknownDefinitionError
from forgather_core.options.aliases import RenamedOptionWarning, former_names
from forgather_core.options.scope import shared_option
from forgather_core.options.spec import specs_of
from forgather_core.settings.layers import Layer, find_configuration, with_current_names
from forgather_core.settings.resolve import resolve
from tests.support.plugins import PLUGIN, MakeRegistry


@dataclass(kw_only=True)
class Sample:
    width: int = shared_option(4, help="A width", aliases=("size", "breadth"))
    plain: int = shared_option(4, help="An option without aliases")


SPECS = specs_of(Sample)


def test_every_former_name_leads_to_its_option() -> None:
    assert {old: spec.name for old, spec in former_names(SPECS).items()} == {"size": "width", "breadth": "width"}
    assert SPECS[0].flags == ("--width",)


def test_no_alias_is_the_name_of_another_option() -> None:
    specs = {spec.name: spec for group in SHARED_OPTIONS for spec in specs_of(group)}
    aliases = [alias for spec in specs.values() for alias in spec.aliases]
    assert len(aliases) == len(set(aliases))
    assert not set(aliases) & set(specs)


def test_aliases_are_reserved(make_registry: MakeRegistry) -> None:
    registry = make_registry(bad=PLUGIN.replace("hidden_size: int", "utilization: float"))
    with pytest.raises(UnknownDefinitionError, match="the option 'utilization' of 'NAME' conflicts"):
        registry.definition("bad")


def test_a_layer_gets_current_names() -> None:
    layer = Layer("command line", {"like": "d", "seed": 3})
    with pytest.warns(RenamedOptionWarning, match=r"^--like is now --from-config$"):
        assert with_current_names(layer).values == {"from_config": "d", "seed": 3}
    assert with_current_names(Layer("command line", {"seed": 3})).renamed == {}


def test_a_yaml_key_may_have_its_former_name(tmp_path: Path) -> None:
    file = tmp_path / "exp.yaml"
    file.write_text("extends: llama\nseed: 4\nlike: nowhere\n")
    with pytest.warns(RenamedOptionWarning, match=r"exp\.yaml:3:1: like is now from_config"):
        configuration = find_configuration(str(file), Registry())
    assert configuration.layers[-1].values == {"seed": 4, "from_config": "nowhere"}
    assert configuration.layers[-1].place("from_config") == {
        "option": "from_config",
        "file": file,
        "line": 3,
        "column": 1,
    }
    with pytest.raises(ConfigurationError, match=r"--from-config: nowhere/config\.json does not exist"):
        resolve(configuration)


def test_both_names_in_one_file_are_an_error(tmp_path: Path) -> None:
    file = tmp_path / "exp.yaml"
    file.write_text("extends: llama\nfrom_config: a\nlike: b\n")
    with pytest.raises(ConfigurationError, match=r"exp\.yaml:3:1: like is the former name of from_config"):
        find_configuration(str(file), Registry())
