"""Modules and weights of a kind: what stands once in every layer."""

from __future__ import annotations

import re


def kind_of(name: str) -> str:
    """The name of a module or weight with `*` for the number of its layer: `model.layers.*.mlp.up_proj`."""
    return re.sub(r"(^|\.)\d+(?=\.|$)", r"\1*", name)
