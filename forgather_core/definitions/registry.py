"""The registry of plugins: find them by entry point, load them one at a time, and tolerate broken ones."""

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
from ..options.command_options import EstimateOptions, ShowOptions, TestOptions, VerifyOptions
from ..options.reserved_names import name_problem
from ..options.shared import BuildOptions, DirectoryOptions, LaunchOptions, OutputOptions, RunOptions
from ..options.spec import did_you_mean, specs_of, use_one_of
from ..options.train_options import TrainOptions
from .contracts import check_options
from .definition import ModelDefinition
from .hookspecs import ENTRY_POINT_GROUP, PROJECT, ForgatherHooks
from .import_cost import ImportCost, measure_imports

DISABLE_VARIABLE = "FORGATHER_DISABLE_PLUGINS"
RESERVED_KEYS = frozenset({"extends", "source", "parameters", "description"})


@dataclass
class Plugin:
    """A plugin: an entry point of the group `forgather.models`, and its state."""

    name: str
    entry_point: EntryPoint
    state: str = "found"  # found (not imported) | loading | loaded | broken | disabled
    error: str | None = None
    file: str | None = None
    definitions: dict[str, ModelDefinition] = field(default_factory=dict)
    cost: ImportCost | None = None  # None if the import is not slow

    @property
    def distribution(self) -> str:
        """The name of the distribution that provides the plugin."""
        return _dist_name(self.entry_point.dist)

    @property
    def version(self) -> str:
        """The version of the distribution."""
        return self.entry_point.dist.version if self.entry_point.dist is not None else "?"


def _dist_name(dist: Distribution | None) -> str:
    return dist.name if dist is not None else "?"


class Registry:
    """The plugins of this environment. Creating a registry imports none of them."""

    def __init__(self) -> None:
        self._manager = pluggy.PluginManager(PROJECT)
        self._manager.add_hookspecs(ForgatherHooks)
        self.plugins: dict[str, Plugin] = {}
        disabled = {name.strip() for name in os.environ.get(DISABLE_VARIABLE, "").split(",")}
        points = list(entry_points(group=ENTRY_POINT_GROUP))
        name_counts = Counter(point.name for point in points)
        # Reading the name of a distribution opens a file. It is read only if two plugins have the same name.
        for point in sorted(points, key=lambda e: (e.name, _dist_name(e.dist) if name_counts[e.name] > 1 else "")):
            self._add(point, disabled)

    def _add(self, entry_point: EntryPoint, disabled: set[str]) -> None:
        duplicate = self.plugins.get(entry_point.name)
        if duplicate is not None:
            owners = f"'{duplicate.distribution}' and '{_dist_name(entry_point.dist)}'"
            duplicate.state = "broken"
            duplicate.error = f"two distributions provide this name: {owners}: uninstall one of them"
            return
        state = "disabled" if entry_point.name in disabled else "found"
        self.plugins[entry_point.name] = Plugin(entry_point.name, entry_point, state)

    # --- loading: one entry point, guarded ---------------------------------------------------------------------------

    def load(self, name: str) -> Plugin:
        """Import one plugin. A failure is stored in its `error` and never raised; other plugins are not affected."""
        plugin = self.plugins[name]
        if plugin.state != "found":
            return plugin
        plugin.state = "loading"
        try:
            with measure_imports() as measured:
                module = plugin.entry_point.load()
            plugin.cost = measured.cost(plugin.entry_point.module)
            plugin.file = getattr(module, "__file__", None)
            plugin.definitions = self._definitions_of(module, name)
            self._refuse_duplicates(plugin)
            plugin.state = "loaded"
        except (Exception, SystemExit) as error:
            text = str(error).strip().splitlines()
            kind = "" if isinstance(error, DefinitionError) else f"{type(error).__name__}: "
            plugin.state, plugin.error = "broken", kind + (text[0] if text else "(no message)")
            plugin.definitions = {}
            self._manager.unregister(name=name) if self._manager.has_plugin(name) else None
        return plugin

    def _definitions_of(self, module: Any, name: str) -> dict[str, ModelDefinition]:
        if not self._manager.is_registered(module):  # two entry points may refer to the same module
            self._refuse_unknown_hooks(module)
            self._manager.register(module, name=name)
        others = [other for other in self._manager.get_plugins() if other is not module]
        results = self._manager.subset_hook_caller("forgather_models", others)()
        if not results:
            raise DefinitionError("forgather_models() is missing", hint="define it in the module, with @hookimpl")
        found: dict[str, ModelDefinition] = {}
        for definition in results[0]:
            _check_definition(definition)
            if definition.name in found:
                raise DefinitionError(f"it provides two definitions named '{definition.name}'", hint="rename one")
            found[definition.name] = definition
        return found

    def _refuse_unknown_hooks(self, module: Any) -> None:
        hooks = [hook for hook in vars(ForgatherHooks) if not hook.startswith("_")]
        for function in sorted(vars(module)):
            options = self._manager.parse_hookimpl_opts(module, function)
            if options is not None and not options["optionalhook"] and function not in hooks:
                hint = did_you_mean(function, hooks) or use_one_of(hooks)
                raise DefinitionError(f"there is no hook '{function}'", hint=hint)

    def _refuse_duplicates(self, plugin: Plugin) -> None:
        for name in plugin.definitions.keys() & self.plugins.keys():
            self.load(name)  # a plugin whose entry point has the name takes precedence, in any loading order
        for other in self.plugins.values():
            if other.state == "loaded" and other.file != plugin.file:
                for name in plugin.definitions.keys() & other.definitions.keys():
                    problem = f"the plugin '{other.name}' already provides the definition '{name}'"
                    raise DefinitionError(problem, hint="rename one, or uninstall one of the plugins")

    def load_all(self) -> list[Plugin]:
        """Import and return every plugin, including broken ones."""
        return [self.load(name) for name in self.plugins]

    def hook_results(self, hook: str) -> Iterator[tuple[Plugin, list[Any] | Exception]]:
        """Yield each plugin that implements an optional hook, with the results of the hook or its exception.

        Broken plugins are yielded with a `DefinitionError`.
        """
        for plugin in self.load_all():
            if plugin.state == "broken":
                yield (
                    plugin,
                    DefinitionError(f"it cannot be loaded: {plugin.error}", hint="correct or uninstall the plugin"),
                )
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
        """Return the definition `name`. If an entry point has this name, only its plugin is imported.

        Raises:
            UnknownDefinitionError: There is no such definition, or its plugin is broken or disabled.
        """
        return self.owner(name).definitions[name]

    def owner(self, name: str) -> Plugin:
        """Return the plugin that provides the definition `name`. Raises like `definition`."""
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
            self._refuse_unusable(plugin)  # a conflict with another plugin's definition is detected only now
        known = list(self.names())
        hint = did_you_mean(name, known) or use_one_of(known) if known else "install a plugin"
        raise UnknownDefinitionError(f"no model definition named '{name}'", hint=hint)

    @staticmethod
    def _refuse_unusable(plugin: Plugin) -> None:
        if plugin.state == "broken":
            where = f"{plugin.distribution} {plugin.version}, {plugin.entry_point.value}"
            problem = f"the plugin '{plugin.name}' ({where}) cannot be loaded: {plugin.error}"
            raise UnknownDefinitionError(problem, hint="correct or uninstall it")
        if plugin.state == "disabled":
            problem = f"the plugin '{plugin.name}' is disabled by {DISABLE_VARIABLE}"
            raise UnknownDefinitionError(problem, hint="remove its name from that variable")

    def names(self) -> Iterator[str]:
        """Yield the names of all working definitions."""
        for definition in self.definitions():
            yield definition.name

    def definitions(self) -> Iterator[ModelDefinition]:
        """Yield all working definitions, sorted by name."""
        found = {d.name: d for plugin in self.load_all() for d in plugin.definitions.values()}
        for name in sorted(found):
            yield found[name]


def _check_definition(definition: Any) -> None:
    if not isinstance(definition, ModelDefinition):
        raise DefinitionError(f"forgather_models() must yield ModelDefinition objects; got {type(definition).__name__}")
    name = definition.name
    if not name or not all(c.isalnum() or c in "_-." for c in name):
        raise DefinitionError(f"the definition name '{name}' must consist of letters, digits, '_', '-' and '.'")
    targets = (definition.config, definition.model, definition.reference)
    for target in (target for target in targets if target is not None):
        module, colon, attribute = target.partition(":")
        if not (module and colon and attribute):
            raise DefinitionError(f"'{name}': expected 'package.module:Name', got '{target}'")
    shared = {name for group in SHARED_OPTIONS for spec in specs_of(group) for name in (spec.name, *spec.aliases)}
    flags = {flag for group in SHARED_OPTIONS for spec in specs_of(group) for flag in spec.info.flags}
    for spec in specs_of(definition.options):
        if spec.name in shared or spec.name in RESERVED_KEYS or flags & set(spec.info.flags):
            problem = f"the option '{spec.name}' of '{name}' conflicts with a shared option"
            raise DefinitionError(problem, hint="rename it")
    names = {spec.name for spec in specs_of(definition.options)}
    for option in sorted(names):
        if (found := name_problem(option, names)) is not None:
            problem, hint = found
            raise DefinitionError(f"the option '{option}' of '{name}' {problem}", hint=hint)
    check_options(definition.options, name)
    presets = definition.preset_names()
    if definition.default_preset is not None and definition.default_preset not in presets:
        problem = f"'{name}': the default preset '{definition.default_preset}' does not exist"
        raise DefinitionError(problem, hint=use_one_of(presets) if presets else "add the preset")


# Options with these names are reserved. Some names occur in several of the classes.
SHARED_OPTIONS: tuple[type, ...] = (
    DirectoryOptions, BuildOptions, RunOptions, LaunchOptions, OutputOptions, TrainOptions, TestOptions,
    EstimateOptions, ShowOptions, VerifyOptions,
)  # fmt: skip


@cache
def registry() -> Registry:
    """Return the registry of this process."""
    return Registry()
