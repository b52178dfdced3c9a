"""`show --init`: the table of initial weights, read from the definition's own code, with the weights each row fills."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from ..errors import DefinitionError
from ..parts.table_init import find_row
from ..settings.resolve import Settings
from .kinds import kind_of
from .meta_model import meta_model


@dataclass(frozen=True)
class InitialRow:
    """One kind of weight: equal names of all layers are one row.

    Args:
        pattern: Of the row of the table that fills it.
        rule: What that row says.
        weight: The parameter's name, layer numbers as `*`.
        count: How many layers have it.
        shape: Of each.
        std: The standard deviation that the rule promises for this shape.
        trainable: Whether it receives gradients.
    """

    pattern: str
    rule: str
    weight: str
    count: int
    shape: tuple[int, ...]
    std: float
    trainable: bool


def initial_table(settings: Settings) -> list[dict[str, Any]]:
    """The rows in the order of the definition's table, as plain data. The model is made on meta: nothing is allocated.

    Raises:
        DefinitionError: The definition has no table, no row of it matches a weight, or a rule does not fit a weight.
    """
    definition = settings.configuration.definition
    model = meta_model(settings)
    if not hasattr(model, "initial_weights"):
        raise DefinitionError(f"'{definition.name}' has no table of initial weights (initial_weights())")
    table = list(model.initial_weights())
    kinds: dict[str, list[Any]] = {}
    for name, parameter in model.named_parameters():  # a tied head is the embedding, and filled as that
        kinds.setdefault(kind_of(name), []).append(parameter)
    rows = {kind: _row_of(kind, table, definition.name) for kind in kinds}
    order = sorted(kinds, key=lambda kind: rows[kind])  # of the table, then of the model
    return [asdict(_describe(definition.name, kind, kinds[kind], *table[rows[kind]])) for kind in order]


def _row_of(kind: str, table: list[tuple[str, Any]], definition: str) -> int:
    try:
        return find_row(table, kind)
    except ValueError:
        message = f"no row of the table of initial weights of '{definition}' matches '{kind}'"
        raise DefinitionError(message) from None


def _describe(definition: str, kind: str, parameters: list[Any], pattern: str, rule: Any) -> InitialRow:
    shape = tuple(parameters[0].shape)
    try:
        rule.check(shape)
    except ValueError as error:
        message = f"the table of initial weights of '{definition}' has a rule that does not fit '{kind}': {error}"
        raise DefinitionError(message) from None
    return InitialRow(
        pattern, str(rule), kind, len(parameters), shape, rule.std(shape), bool(parameters[0].requires_grad)
    )
