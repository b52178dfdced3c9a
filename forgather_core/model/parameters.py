"""Count the parameters of a model by kind of module."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .kinds import kind_of

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True)
class ParameterRow:
    """The parameters of one kind of module. Modules that differ only in their layer number are one row.

    Args:
        module: Name of the module, with layer numbers as `*`.
        shapes: Shape of each parameter by its name in the module.
        modules: Number of modules of this kind.
        total: Number of elements in all of them.
        trainable: Number of elements that require a gradient.
        tied_to: Name of the parameter that this one is tied to, under which it is counted.
    """

    module: str
    shapes: Mapping[str, tuple[int, ...]]
    modules: int
    total: int
    trainable: int
    tied_to: str | None = None


@dataclass(frozen=True)
class ParameterTable:
    """The parameters of a model; shared parameters count once."""

    rows: tuple[ParameterRow, ...]
    total: int
    trainable: int
    bytes: int


def parameter_table(model: nn.Module) -> ParameterTable:
    """Count the parameters of a model by kind of module. Works on meta."""
    first: dict[int, str] = {}
    kinds: dict[str, list[tuple[str, Any, str | None]]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        tied_to = first.get(id(parameter))
        first.setdefault(id(parameter), name)
        module, _, leaf = name.rpartition(".")
        kinds.setdefault(kind_of(module), []).append((leaf, parameter, tied_to))
    rows = tuple(_row(kind, members) for kind, members in kinds.items())
    unique = list(model.parameters())
    return ParameterTable(
        rows,
        total=sum(p.numel() for p in unique),
        trainable=sum(p.numel() for p in unique if p.requires_grad),
        bytes=sum(p.numel() * p.element_size() for p in unique),
    )


def _row(kind: str, members: list[tuple[str, Any, str | None]]) -> ParameterRow:
    shapes = {leaf: tuple(parameter.shape) for leaf, parameter, _ in members}
    own = [parameter for _, parameter, tied_to in members if tied_to is None]
    tied = next((tied_to for _, _, tied_to in members if tied_to is not None), None)
    return ParameterRow(
        kind,
        shapes,
        modules=len(members) // len(shapes),
        total=sum(p.numel() for p in own),
        trainable=sum(p.numel() for p in own if p.requires_grad),
        tied_to=tied,
    )
