"""All available checks: Forgather's own and those of plugins."""

from __future__ import annotations

import warnings
from collections.abc import Callable

from ..definitions.check import Check
from ..definitions.registry import Registry, registry
from ..errors import DefinitionError
from .own_checks import CHECKS


def known_checks(plugins: Registry | None = None, *, on_broken: Callable[[str], object] = warnings.warn) -> list[Check]:
    """Return Forgather's checks, then those that plugins yield in `forgather_checks`.

    Args:
        plugins: The registry of plugins; None uses that of this process.
        on_broken: Called with one sentence for each plugin whose checks cannot be loaded.

    Raises:
        DefinitionError: Two checks have the same name.
    """
    owners = {check.name: "Forgather" for check in CHECKS}
    found = list(CHECKS)
    for plugin, yielded in (plugins or registry()).hook_results("forgather_checks"):
        problem = _problem(yielded)
        if problem is not None or isinstance(yielded, Exception):
            on_broken(f"the checks of the plugin '{plugin.name}' are not available: {problem}")
            continue
        owner = f"the plugin '{plugin.name}'"
        for check in yielded:
            if check.name in owners:
                problem = f"{owners[check.name]} and {owner} both have a check named '{check.name}'"
                raise DefinitionError(problem, hint="rename one of them")
            owners[check.name] = owner
            found.append(check)
    return found


def _problem(yielded: object) -> str | None:
    if isinstance(yielded, DefinitionError):
        return str(yielded)
    if isinstance(yielded, Exception):
        return " ".join(f"{type(yielded).__name__}: {yielded}".split())
    assert isinstance(yielded, list)
    invalid = next((item for item in yielded if not isinstance(item, Check)), None)
    return None if invalid is None else f"forgather_checks() must yield Check objects; got {type(invalid).__name__}"
