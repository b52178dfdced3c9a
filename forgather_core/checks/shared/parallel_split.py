"""The parts of a model that each of two tensor-parallel ranks has, according to a plan."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

RANKS = 2
_ATTENTION = re.compile(r"att(?:ention|n)", re.IGNORECASE)
_COLUMNS = frozenset({"colwise"})
_SPLIT_INPUT = frozenset({"rowwise_split_input", "rowwise_rep"})
_ROWS = frozenset({"rowwise", *_SPLIT_INPUT})
ADDED = "replicated_with_grad_allreduce"
# Styles with replicated inputs and outputs: these modules need not be split here.
_REPLICATED = frozenset({"colwise_gather_output", "colwise_rep", "embedding_colwise", "embedding_rowwise", "replicate"})
_KNOWN = _COLUMNS | _ROWS | _REPLICATED | {ADDED, "mla_kv_a_proj"}


def pattern_of(name: str) -> str:
    """Return the pattern of a name in plans: "layers.0.mlp" -> "layers.*.mlp"."""
    return re.sub(r"(?<=\.)\d+(?=\.|$)", "*", name)


@dataclass
class Split:
    """The split modules and parameters of a model.

    Args:
        columns, rows: The modules with these styles, by name.
        whole_inputs: The names of rowwise modules that get the full input and split it.
        dims: The dimension in which each split parameter is split.
        added: The names of replicated parameters whose gradients are summed over ranks.
    """

    columns: dict[str, nn.Module] = field(default_factory=dict)
    rows: dict[str, nn.Module] = field(default_factory=dict)
    whole_inputs: set[str] = field(default_factory=set)
    dims: dict[str, int] = field(default_factory=dict)
    added: set[str] = field(default_factory=set)

    def part(self, name: str, tensor: Tensor, rank: int) -> Tensor:
        """Return a rank's part of a parameter or its gradient; all of it if it is not split."""
        return tensor.chunk(RANKS, self.dims[name])[rank] if name in self.dims else tensor


def split_of(model: Any, plan: Mapping[str, str]) -> Split:
    """Return the split modules, without attention whose heads cannot be split and modules with unknown styles."""
    split, config = Split(), model.config.get_text_config()
    heads = [getattr(config, name, None) or 0 for name in ("num_attention_heads", "num_key_value_heads")]
    named = {name for name, style in plan.items() if style not in _KNOWN}
    unknown = named | {name.rpartition(".")[0] for name in named}

    def style_of(name: str) -> str:
        parent = name.rpartition(".")[0]
        if pattern_of(parent) in unknown or parent in unknown:
            return ""
        style = plan.get(name) or plan.get(pattern_of(name), "")
        return "" if style in _COLUMNS | _ROWS and _ATTENTION.search(name) and any(n % RANKS for n in heads) else style

    for name, module in model.named_modules():
        style = style_of(name)
        own = {f"{name}.{key}": parameter for key, parameter in module.named_parameters(recurse=False)}
        for full, parameter in own.items():  # a parameter may have a style of its own
            kind = style_of(full) or style
            if kind in _COLUMNS:
                split.dims[full] = max(parameter.dim() - 2, 0)
            elif kind in _ROWS and not full.endswith(".bias"):
                split.dims[full] = parameter.dim() - 1
            elif kind == ADDED:
                split.added.add(full)
        if style in _COLUMNS:
            split.columns[name] = module
        elif style in _ROWS:
            split.rows[name] = module
            split.whole_inputs |= {name} if style in _SPLIT_INPUT else set()
    return split
