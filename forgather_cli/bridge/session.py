"""The state of one run of the program: the chosen configuration, its options, and the values given for them."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from forgather_core.definitions.registry import SHARED_OPTIONS, registry
from forgather_core.errors import ForgatherError
from forgather_core.options.by_command import COMMAND_OPTIONS
from forgather_core.options.scope import commands_of
from forgather_core.options.spec import OptionSpec, specs_of

from .options import typer_parameters

if TYPE_CHECKING:
    from forgather_core.settings.layers import Configuration

CHOOSE = "choose a model definition, for example: forgather -t llama/4M model construct (list them: forgather ls)"


@dataclass
class Session:
    """The state of one run of the program, stored on Typer's root context."""

    configuration: Configuration | None = None
    error: ForgatherError | None = None
    given: dict[str, Any] = field(default_factory=dict)
    _parameters_by_command: dict[str | None, dict[str, Any]] = field(default_factory=dict)
    parsing_words: bool = False  # True while arguments without options are parsed, which need no parameters

    @classmethod
    def of(cls, ctx: typer.Context) -> Session:
        """Return the session of this run, created on first use."""
        root = ctx.find_root()
        if "forgather" not in root.meta:
            root.meta["forgather"] = cls._create(root.params)
        session: Session = root.meta["forgather"]
        return session

    @classmethod
    def _create(cls, root: dict[str, Any]) -> Session:
        session = cls()
        template = root.get("template")
        if template:
            from forgather_core.settings.layers import find_configuration

            try:
                session.configuration = find_configuration(template, registry(), Path(root.get("project") or "."))
            except ForgatherError as error:
                # parse_args raises it: Typer also gets the parameters while it prints an error.
                session.error = error if error.file is not None else error.at(option="-t")
        return session

    @cached_property
    def parameters(self) -> dict[str, Any]:
        """Typer's parameters of the options, by name, including former names."""
        return typer_parameters(self.specs)

    def parameters_of(self, command: str | None) -> dict[str, Any]:
        """Return the parameters of a command, with the choices of that command, or those of the group (None).

        Each call returns the same objects.
        """
        if command not in self._parameters_by_command:
            group = COMMAND_OPTIONS.get(command or "")
            own = [spec for spec in specs_of(group) if spec != self.shared[spec.name]] if group else []
            self._parameters_by_command[command] = self.parameters | (typer_parameters(own) if own else {})
        return self._parameters_by_command[command]

    @cached_property
    def specs(self) -> list[OptionSpec]:
        """The options of the chosen definition, then the shared ones."""
        own = specs_of(self.configuration.definition.options) if self.configuration else ()
        return [*own, *self.shared.values()]

    @cached_property
    def shared(self) -> dict[str, OptionSpec]:
        """The options shared by all definitions, by name.

        If commands declare an option with different choices, the spec here accepts the choices of all. It converts
        values before the command is known; afterwards the command's own spec converts them.
        """
        found: dict[str, OptionSpec] = {}
        for spec in (spec for group in SHARED_OPTIONS for spec in specs_of(group)):
            found[spec.name] = _merge_choices(found[spec.name], spec) if spec.name in found else spec
        return found

    def of_command(self, command: str) -> dict[str, OptionSpec]:
        """Return the options that a command uses, by name, with its choices and defaults; shared options first."""
        group = COMMAND_OPTIONS.get(command)
        found = {spec.name: spec for spec in [*self.shared.values(), *(specs_of(group) if group else ())]}
        found |= {spec.name: spec for spec in self.specs if spec.name not in found}
        return {name: spec for name, spec in found.items() if command in commands_of(spec)}

    def given_specs(self) -> list[OptionSpec]:
        """Return the options given on the command line."""
        return [spec for spec in self.specs if spec.name in self.given]

    def preset_values(self) -> dict[str, Any]:
        """Return the unconverted values that the configuration sets, as the defaults of a help page."""
        layers = self.configuration.layers if self.configuration else ()
        return {name: value for layer in layers for name, value in layer.values.items()}


def _merge_choices(one: OptionSpec, other: OptionSpec) -> OptionSpec:
    """Return the spec `other` with the choices of both specs."""
    kind = other.kind
    if isinstance(kind, tuple) and isinstance(one.kind, tuple):
        kind = (*kind, *(choice for choice in one.kind if choice not in kind))
    return other._replace(kind=kind, optional=one.optional or other.optional)
