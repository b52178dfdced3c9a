"""The sizes of a configuration, by Hugging Face's usual names."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

_INDICES = ("hybrid_layer_ids",)


class Sizes:
    """A configuration as plain data, and changes to it.

    Args:
        config: The configuration.
        names: Maps Hugging Face's usual names to this configuration's, where they differ (`attribute_map`).

    Attributes:
        changes: The new values, by the configuration's own names.
    """

    def __init__(self, config: Mapping[str, Any], names: Mapping[str, str]) -> None:
        self._config, self._names = config, names
        self.changes: dict[str, Any] = {}

    def with_changes(self, values: Mapping[str, Any]) -> Sizes:
        """Return the sizes of the original configuration with other values, without changes."""
        own = {self._names.get(name, name): value for name, value in values.items()}
        return Sizes({**self._config, **own}, self._names)

    def __getitem__(self, name: str) -> Any:
        """Return the original value, or None if there is none."""
        return self._config.get(self._names.get(name, name))

    def current(self, name: str) -> Any:
        """Return the new value, or the original one if it is unchanged."""
        own = self._names.get(name, name)
        return self.changes.get(own, self._config.get(own))

    def set(self, name: str, value: Any) -> bool:
        """Change a value, if the configuration has the option. Return whether it has."""
        own = self._names.get(name, name)
        if own in self._config:
            self.changes[own] = value
        return own in self._config

    def limit(self, names: Iterable[str], most: int) -> None:
        """Reduce each of these sizes, or lists of sizes, to at most `most`; null and 0, which mean "none", stay."""
        for name in names:
            value = self.current(name)
            if isinstance(value, int) and not isinstance(value, bool) and value > most:
                self.set(name, most)
            elif isinstance(value, list) and all(isinstance(one, int) for one in value):
                self.set(name, [min(one, most) for one in value])

    def lists(self, length: int) -> dict[str, list[Any]]:
        """Return the values that are lists of this length, but not of token ids, by the configuration's own names."""
        lists = {name: value for name, value in self._config.items() if isinstance(value, (list, tuple))}
        return {
            name: list(value)
            for name, value in lists.items()
            if len(value) == length and not name.endswith("_token_id")
        }

    def indices(self) -> dict[str, list[int]]:
        """Return the lists of layers of a kind that the list of the layers' kinds names, too."""
        return {name: list(self._config[name]) for name in _INDICES if self._config.get(name) is not None}
