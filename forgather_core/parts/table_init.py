"""Applies a definition's table of initial weights, module by module, as transformers asks for it."""

import re
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from forgather_core.parts.initial_weights import Rule


@torch.no_grad()
def initialise_module(model: Any, module: Any) -> None:
    """Fill the parameters that a module itself owns, and let it compute its buffers.

    What a checkpoint has filled, which transformers marks, stays; so does the target of a tie, which is about to become
    its source. Parameters on the meta device have nothing to fill.

    Args:
        model: Has `initial_weights()` and, from transformers, `all_tied_weights_keys`.
        module: One of its modules, or a replacement for its embedding or head.

    Raises:
        ValueError: No rule matches a parameter: it would silently keep what memory held.
    """
    parameters = dict(module.named_parameters(recurse=False))
    if parameters:
        prefix, table = _name_of(model, module), list(model.initial_weights())
        tied = getattr(model, "all_tied_weights_keys", None) or {}
        for leaf, parameter in parameters.items():
            name = f"{prefix}.{leaf}"
            rule = find_rule(table, name)
            if name not in tied and not getattr(parameter, "_is_hf_initialized", False) and not parameter.is_meta:
                rule.fill(parameter)
    if hasattr(module, "reset_buffers"):
        module.reset_buffers()


def find_row(table: Sequence[tuple[str, Rule]], name: str) -> int:
    """Which row of a table fills a parameter: the first whose pattern is found in its name.

    Raises:
        ValueError: There is none.
    """
    for number, (pattern, _) in enumerate(table):
        if re.search(pattern, name):
            return number
    raise ValueError(f"no row of the table of initial weights matches the parameter '{name}'")


def find_rule(table: Sequence[tuple[str, Rule]], name: str) -> Rule:
    """The rule of that row; raises as `find_row`."""
    return table[find_row(table, name)][1]


def _name_of(model: nn.Module, module: nn.Module) -> str:
    for name, candidate in model.named_modules():
        if candidate is module:
            return name
    # resize_token_embeddings makes new modules and fills them before they take their place
    return "embed_tokens" if isinstance(module, nn.Embedding) else "lm_head"
