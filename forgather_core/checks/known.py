"""All checks that there are here: Forgather's own, and those of plugins."""

from __future__ import annotations

import warnings
from collections.abc import Callable

from ..definitions.check import Check
from ..definitions.registry import Registry, registry
from ..errors import DefinitionError
from . import CHECKS


def known_checks(plugins: Registry | None = None, *, on_broken: Callable[[str], object] = warnings.warn) -> list[Check]:
    """Forgather's own, then those that plugins yield in `forgather_checks`.

    Args:
        plugins: Where plugins are found; None takes the registry of this process.
        on_broken: Told, in a sentence, of a plugin whose checks cannot be had.

    Raises:
        DefinitionError: Two checks have one name.
    """
    owners = {check.name: "Forgather" for check in CHECKS}
    found = list(CHECKS)
    for plugin, yielded in (plugins or registry()).yielded("forgather_checks"):
        wrong = _fault(yielded)
        if wrong is not None or isinstance(yielded, Exception):
            on_broken(f"the checks of the plugin '{plugin.name}' are not tried: {wrong}")
            continue
        owner = f"the plugin '{plugin.name}'"
        for check in yielded:
            if check.name in owners:
                raise DefinitionError(f"two checks are named '{check.name}': {owners[check.name]}'s and {owner}'s")
            owners[check.name] = owner
            found.append(check)
    return found


def _fault(yielded: object) -> str | None:
    if isinstance(yielded, DefinitionError):
        return str(yielded)
    if isinstance(yielded, Exception):
        return " ".join(f"{type(yielded).__name__}: {yielded}".split())
    assert isinstance(yielded, list)
    strange = next((item for item in yielded if not isinstance(item, Check)), None)
    return None if strange is None else f"forgather_checks() gave a {type(strange).__name__}, not a Check"
