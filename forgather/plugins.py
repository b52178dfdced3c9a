"""The commands about plugins as functions."""

from __future__ import annotations

from pathlib import Path

from forgather_core.definitions.registry import registry
from forgather_core.options.plain_options import NewPluginOptions

from .listings import NewPlugin, PluginList
from .public import public


@public()
def list_plugins() -> PluginList:
    """List the plugins that provide definitions, with the errors of broken ones."""
    from forgather_core.commands.listing import list_plugins as rows

    return PluginList({"plugins": rows(registry())})


@public(NewPluginOptions)
def new_plugin(name: str, *, output_dir: str | Path | None = None) -> NewPlugin:
    """Write a plugin package: a working model definition with tests and a preset, as a starting point.

    Args:
        name: Name of the definition.
        output_dir: New directory; None: `forgather-NAME` in the working directory.

    Raises:
        DefinitionError: The name is invalid or taken.
        DirectoryError: The directory exists or cannot be written.
    """
    from forgather_core.scaffold import new_plugin as run

    return NewPlugin(run(name, output_dir))
