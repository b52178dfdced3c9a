"""Finds plugins by entry point, loads one at a time, and survives the broken ones."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from importlib.metadata import Distribution, EntryPoint, entry_points
from typing import Any

import pluggy

from ..errors import DefinitionError, UnknownDefinitionError
from ..options.reserved_names import name_problem
from ..options.shared import (
    BuildOptions,
    DirectoryOptions,
    EstimateOptions,
    RunOptions,
    ShowOptions,
    TestOptions,
    VerifyOptions,
)
from ..options.spec import did_you_mean, specs_of
from .definition import ModelDefinition
from .hookspecs import ENTRY_POINT_GROUP, PROJECT, ForgatherHooks
from .import_cost import ImportCost, measured_imports

DISABLE_VARIABLE = "FORGATHER_DISABLE_PLUGINS"
RESERVED_KEYS = frozenset({"extends", "source", "parameters", "description"})


@dataclass
class Plugin:
    """One entry point of the group `forgather.models`, and what became of it."""

    name: str
    entry_point: EntryPoint
    state: str = "found"  # found (not imported) | loading | loaded | broken | disabled
    error: str | None = None
    file: str | None = None
    definitions: dict[str, ModelDefinition] = field(default_factory=dict)
    cost: ImportCost | None = None  # of importing it, if that is more than options should take

    @property
    def distribution(self) -> str:
        """Name of the distribution that brings it."""
        return _dist_name(self.entry_point.dist)

    @property
    def version(self) -> str:
        """Version of that distribution."""
        return self.entry_point.dist.version if self.entry_point.dist is not None else "?"


def _dist_name(dist: Distribution | None) -> str:
    return dist.name if dist is not None else "?"


class Registry:
    """The plugins of this environment. Making one imports nothing."""

    def __init__(self) -> None:
        self._manager = pluggy.PluginManager(PROJECT)
        self._manager.add_hookspecs(ForgatherHooks)
        self.plugins: dict[str, Plugin] = {}
        disabled = {name.strip() for name in os.environ.get(DISABLE_VARIABLE, "").split(",")}
        points = list(entry_points(group=ENTRY_POINT_GROUP))
        offers = Counter(point.name for point in points)
        # A distribution's name is read from a file of its own, so only where two of them offer one name.
        for point in sorted(points, key=lambda e: (e.name, _dist_name(e.dist) if offers[e.name] > 1 else "")):
            self._add(point, disabled)

    def _add(self, entry_point: EntryPoint, disabled: set[str]) -> None:
        twin = self.plugins.get(entry_point.name)
        if twin is not None:
            owners = f"'{twin.distribution}' and '{_dist_name(entry_point.dist)}'"
            twin.state, twin.error = "broken", f"two distributions offer the name: {owners}; uninstall one of them"
            return
        state = "disabled" if entry_point.name in disabled else "found"
        self.plugins[entry_point.name] = Plugin(entry_point.name, entry_point, state)

    # --- loading: one entry point, guarded ---------------------------------------------------------------------------

    def load(self, name: str) -> Plugin:
        """Import one plugin. A failure is kept in its `error`; it is never raised, and never harms another plugin."""
        plugin = self.plugins[name]
        if plugin.state != "found":
            return plugin
        plugin.state = "loading"
        try:
            with measured_imports() as measured:
                module = plugin.entry_point.load()
            plugin.cost = measured.cost(plugin.entry_point.module)
            plugin.file = getattr(module, "__file__", None)
            plugin.definitions = self._definitions_of(module, name)
            self._refuse_twins(plugin)
            plugin.state = "loaded"
        except (Exception, SystemExit) as error:
            text = str(error).strip().splitlines()
            kind = "" if isinstance(error, DefinitionError) else f"{type(error).__name__}: "
            plugin.state, plugin.error = "broken", kind + (text[0] if text else "(no message)")
            plugin.definitions = {}
            self._manager.unregister(name=name) if self._manager.has_plugin(name) else None
        return plugin

    def _definitions_of(self, module: Any, name: str) -> dict[str, ModelDefinition]:
        if not self._manager.is_registered(module):  # two entry points may name one module
            self._manager.register(module, name=name)
            self._manager.check_pending()
        others = [other for other in self._manager.get_plugins() if other is not module]
        results = self._manager.subset_hook_caller("forgather_models", others)()
        if not results:
            raise DefinitionError("it has no forgather_models() marked with @hookimpl")
        found: dict[str, ModelDefinition] = {}
        for definition in results[0]:
            _check_definition(definition)
            if definition.name in found:
                raise DefinitionError(f"it offers two definitions named '{definition.name}'")
            found[definition.name] = definition
        return found

    def _refuse_twins(self, plugin: Plugin) -> None:
        for name in plugin.definitions.keys() & self.plugins.keys():
            self.load(name)  # who has the name as its own keeps it, in whatever order they are asked for
        for other in self.plugins.values():
            if other.state == "loaded" and other.file != plugin.file:
                for name in plugin.definitions.keys() & other.definitions.keys():
                    raise DefinitionError(f"the definition '{name}' is offered by the plugin '{other.name}' already")

    def load_all(self) -> list[Plugin]:
        """Import every plugin, those that broke included."""
        return [self.load(name) for name in self.plugins]

    def yielded(self, hook: str) -> Iterator[tuple[Plugin, list[Any] | Exception]]:
        """What each plugin that implements an optional hook yields for it, or what it fails with; broken ones too."""
        for plugin in self.load_all():
            if plugin.state == "broken":
                yield plugin, DefinitionError(f"it cannot be loaded: {plugin.error}")
            if not self._manager.has_plugin(plugin.name):
                continue
            module = self._manager.get_plugin(plugin.name)
            others = [other for other in self._manager.get_plugins() if other is not module]
            try:
                for found in self._manager.subset_hook_caller(hook, others)():
                    yield plugin, list(found)
            except Exception as error:
                yield plugin, error

    # --- look-up -----------------------------------------------------------------------------------------------------

    def definition(self, name: str) -> ModelDefinition:
        """The definition of that name, importing its plugin only where the entry point has the definition's name.

        Raises:
            UnknownDefinitionError: There is none, or its plugin is broken or disabled.
        """
        return self.owner(name).definitions[name]

    def owner(self, name: str) -> Plugin:
        """The plugin that offers the definition `name`; raises as `definition`."""
        plugin = self.plugins.get(name)
        if plugin is not None:
            self.load(name)
            self._refuse_unusable(plugin)
            if name in plugin.definitions:
                return plugin
        for other in self.load_all():
            if name in other.definitions:
                return other
        if plugin is not None:
            self._refuse_unusable(plugin)  # a clash with another plugin's definition shows only now
        known = list(self.names())
        hint = did_you_mean(name, known) or ". Installed: " + (", ".join(known) or "none") + "."
        raise UnknownDefinitionError(f"no model definition named '{name}'{hint}")

    @staticmethod
    def _refuse_unusable(plugin: Plugin) -> None:
        if plugin.state == "broken":
            where = f"{plugin.distribution} {plugin.version}, {plugin.entry_point.value}"
            raise UnknownDefinitionError(f"the plugin '{plugin.name}' ({where}) cannot be loaded: {plugin.error}")
        if plugin.state == "disabled":
            raise UnknownDefinitionError(f"the plugin '{plugin.name}' is switched off by {DISABLE_VARIABLE}")

    def names(self) -> Iterator[str]:
        """The names of all definitions that work."""
        for definition in self.definitions():
            yield definition.name

    def definitions(self) -> Iterator[ModelDefinition]:
        """All definitions that work, by name, each once."""
        found = {d.name: d for plugin in self.load_all() for d in plugin.definitions.values()}
        for name in sorted(found):
            yield found[name]


def _check_definition(definition: Any) -> None:
    if not isinstance(definition, ModelDefinition):
        raise DefinitionError(f"forgather_models() gave a {type(definition).__name__}, not a ModelDefinition")
    name = definition.name
    if not name or not all(c.isalnum() or c in "_-." for c in name):
        raise DefinitionError(f"the definition name '{name}' may hold letters, digits, '_', '-' and '.' only")
    targets = (definition.config, definition.model, definition.reference)
    for target in (target for target in targets if target is not None):
        module, colon, attribute = target.partition(":")
        if not (module and colon and attribute):
            raise DefinitionError(f"'{name}' names '{target}'; write it as 'package.module:Name'")
    shared = {spec.name for group in SHARED_OPTIONS for spec in specs_of(group)}
    flags = {flag for group in SHARED_OPTIONS for spec in specs_of(group) for flag in spec.info.flags}
    for spec in specs_of(definition.options):
        if spec.name in shared or spec.name in RESERVED_KEYS or flags & set(spec.info.flags):
            raise DefinitionError(f"the option '{spec.name}' of '{name}' clashes with a shared option of that name")
    names = {spec.name for spec in specs_of(definition.options)}
    for option in sorted(names):
        if (problem := name_problem(option, names)) is not None:
            raise DefinitionError(f"the option '{option}' of '{name}' {problem}")
    presets = definition.preset_names()
    if definition.default_preset is not None and definition.default_preset not in presets:
        raise DefinitionError(f"'{name}' has no preset '{definition.default_preset}', its default one")


# Two of them may have an option in common, from a class that both extend.
SHARED_OPTIONS: tuple[type, ...] = (
    DirectoryOptions, BuildOptions, RunOptions, TestOptions, EstimateOptions, ShowOptions, VerifyOptions,
)  # fmt: skip


@cache
def registry() -> Registry:
    """The registry of this process."""
    return Registry()
