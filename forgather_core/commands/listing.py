"""The reports of `forgather ls` and `forgather plugins`, as plain data. Imports plugins, but not torch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..definitions.registry import Registry
from ..errors import ForgatherError
from ..settings.layers import Configuration, find_configuration, is_configuration, project_files
from ..settings.resolve import resolve

COLUMNS = ("num_hidden_layers", "hidden_size", "vocab_size")


def list_models(registry: Registry, project: Path = Path()) -> dict[str, Any]:
    """Return all definitions with their presets, and the configurations of the project directory."""
    definitions = []
    for definition in registry.definitions():
        templates = [f"{definition.name}/{preset}" for preset in definition.preset_names()]
        definitions.append(
            {
                "name": definition.name,
                "summary": definition.summary,
                "default_preset": definition.default_preset,
                "presets": [_row(template, registry, project) for template in templates],
            }
        )
    files = [path for path in project_files(project).values() if is_configuration(path)]
    return {
        "definitions": definitions,
        "configurations": [_row(str(path), registry, project) for path in files],
        "broken": [plugin.name for plugin in registry.load_all() if plugin.state == "broken"],
    }


def _row(template: str, registry: Registry, project: Path) -> dict[str, Any]:
    row: dict[str, Any] = {"name": template}
    try:
        configuration = find_configuration(template, registry, project)
        resolved = resolve(configuration)
    except ForgatherError as error:
        return row | {"error": str(error)}
    return row | {
        "definition": configuration.definition.name,
        "extends": _extends(configuration),
        "parameters": configuration.notes.get("parameters"),
        **{column: resolved.config.get(column) for column in COLUMNS},
        "tokenizer": resolved.directory.tokenizer,
        "source": configuration.notes.get("source"),
    }


def _extends(configuration: Configuration) -> str | None:
    labels = [layer.label for layer in configuration.layers]
    return labels[-2] if len(labels) > 1 else None


def list_plugins(registry: Registry) -> list[dict[str, Any]]:
    """Return all plugins with name, version, distribution, file, state, error, and slow imports."""
    return [
        {
            "name": plugin.name,
            "version": plugin.version,
            "distribution": plugin.distribution,
            "state": "ok" if plugin.state == "loaded" else plugin.state,
            "definitions": sorted(plugin.definitions),
            "file": plugin.file,
            "entry_point": plugin.entry_point.value,
            "error": plugin.error,
            "slow": str(plugin.cost) if plugin.cost is not None else None,
        }
        for plugin in registry.load_all()
    ]
