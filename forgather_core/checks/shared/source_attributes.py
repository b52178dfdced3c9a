"""The attributes that the source of a model sets."""

from __future__ import annotations

import re

_ATTRIBUTE = re.compile(r"\bself\.(\w+) *(?::[^=\n]+)?=")


def attributes_set_in(source: str) -> set[str]:
    """Return the attributes of `self` that Python source assigns: the modules of a model in any configuration."""
    return set(_ATTRIBUTE.findall(source))
