"""`ModelDefinition`: the description of a model that a plugin provides, without importing torch."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any

from ..errors import DefinitionError
from ..options.spec import did_you_mean
from . import contracts


@dataclass(frozen=True, kw_only=True)
class ModelDefinition:
    """A model definition: its options, the location of its code, and its presets.

    Args:
        name: The name to pass to `-t`. It equals the name of the entry point, unless the plugin provides several.
        summary: One line for `forgather ls` and `--help`.
        options: A standard-library dataclass of `option()` fields, `kw_only=True`, importable without torch. It may
            define the methods of `contracts.OptionsContract`.
        config: `"package.module:Class"` of the configuration class; imported only to build the model.
        model: `"package.module:Class"` of the causal language model; imported only to build the model.
        presets: A directory of `NAME.yaml` files.
        default_preset: The preset used if `-t` names none; None uses the defaults of `options`.
        native: Name of the equivalent transformers class; None if there is none.
        reference: `"package.module:NAME"` of a `forgather_core.reference.Reference`: an independent implementation of
            the equations and the initialization, with which `verify` compares the model. Only `verify` imports it.
        expected_failures: Checks of `verify` that are known to fail, with the reason: `{"padding": "..."}`, or for some
            cases, `{"call-agreement[padding=middle]": "..."}`. They are reported as expected failures,
            and do not affect the exit code.
    """

    name: str
    summary: str
    options: type
    config: str
    model: str
    presets: Path | Traversable | None = None
    default_preset: str | None = None
    native: str | None = None
    reference: str | None = None
    expected_failures: Mapping[str, str] = field(default_factory=dict)

    def preset_names(self) -> list[str]:
        """Return the names of the presets, sorted by the size in the name ("4M" before "30M" before "1B")."""
        if self.presets is None or not self.presets.is_dir():
            return []
        found = [p.name.removesuffix(".yaml") for p in self.presets.iterdir() if p.name.endswith(".yaml")]
        return sorted(found, key=_by_size)

    def native_problems(self, options: Any) -> list[str]:
        """Return the reasons why the native class is not equivalent to a model with these options."""
        if self.native is None:
            return [f"transformers has no class that computes '{self.name}'"]
        return list(contracts.native_problems(options))

    def config_class(self) -> Any:
        """Import, check and return the configuration class.

        Raises:
            DefinitionError: The class does not exist, or violates its contract.
        """
        found = import_object(self.config, self)
        contracts.check_config(found, self.options, self.name)
        return found

    def model_class(self) -> Any:
        """Import, check and return the class of the causal language model. Raises like `config_class`."""
        found = import_object(self.model, self)
        contracts.check_model(found, self.name)
        return found


def import_object(target: str, definition: ModelDefinition) -> Any:
    """Import the object that a definition refers to as `"package.module:Name"`.

    Raises:
        DefinitionError: The module has no object of that name.
    """
    module, _, name = target.partition(":")
    imported = importlib.import_module(module)
    found = getattr(imported, name, None)
    if found is None:
        problem = f"the definition '{definition.name}' refers to '{target}', but '{module}' has no '{name}'"
        hint = did_you_mean(name, vars(imported)) or "correct the name in ModelDefinition"
        raise DefinitionError(problem, hint=hint)
    return found


def _by_size(name: str) -> tuple[float, str]:
    tail = name.rsplit("-", 1)[-1]
    unit = {"K": 1e3, "M": 1e6, "B": 1e9, "T": 1e12}.get(tail[-1:], 0.0)
    try:
        return (float(tail[:-1]) * unit if unit else float("inf"), name)
    except ValueError:
        return (float("inf"), name)
