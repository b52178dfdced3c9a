"""Kinds of modules and weights: those that repeat in every layer count as one."""

from __future__ import annotations

import re


def kind_of(name: str) -> str:
    """Return the name of a module or weight with `*` for its layer number: `model.layers.*.mlp.up_proj`."""
    return re.sub(r"(^|\.)\d+(?=\.|$)", r"\1*", name)
