"""`show --init`: the initialization table of a definition, with the weights that each row initializes."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from ..definitions import contracts
from ..errors import DefinitionError
from ..parts.table_init import find_row
from ..settings.resolved_model import ResolvedModel
from .kinds import kind_of
from .meta_model import meta_model


@dataclass(frozen=True)
class InitialRow:
    """A row of the table: one parameter, or the parameters that differ only in their layer number.

    Args:
        pattern: Pattern of the table row that initializes these parameters.
        rule: Rule of that row.
        weight: Name of the parameter, with layer numbers as `*`.
        count: Number of these parameters.
        shape: Shape of each parameter.
        std: Standard deviation of the rule for this shape.
        trainable: Whether these parameters receive gradients.
    """

    pattern: str
    rule: str
    weight: str
    count: int
    shape: tuple[int, ...]
    std: float
    trainable: bool


def initial_table(resolved: ResolvedModel) -> list[dict[str, Any]]:
    """Return the rows in the order of the definition's table, as plain data. The model is built on meta.

    Raises:
        DefinitionError: The definition has no table, no row of it matches a weight, or a rule does not fit a weight.
    """
    definition = resolved.definition
    model = meta_model(resolved)
    table = contracts.initial_weights(model)
    if table is None:
        raise DefinitionError(
            f"'{definition.name}' has no initialization table", hint="add initial_weights() to its decoder"
        )
    kinds: dict[str, list[Any]] = {}
    for name, parameter in model.named_parameters():  # a tied head is initialized as the embedding
        kinds.setdefault(kind_of(name), []).append(parameter)
    rows = {kind: _row_of(kind, table, definition.name) for kind in kinds}
    order = sorted(kinds, key=lambda kind: rows[kind])  # in the order of the table, then of the model
    return [asdict(_describe(definition.name, kind, kinds[kind], *table[rows[kind]])) for kind in order]


def _row_of(kind: str, table: list[tuple[str, Any]], definition: str) -> int:
    try:
        return find_row(table, kind)
    except ValueError:
        problem = f"no row of the initialization table of '{definition}' matches '{kind}'"
        raise DefinitionError(problem, hint="add a row for it to initial_weights()") from None


def _describe(definition: str, kind: str, parameters: list[Any], pattern: str, rule: Any) -> InitialRow:
    shape = tuple(parameters[0].shape)
    try:
        rule.check(shape)
    except ValueError as error:
        problem = f"the initialization table of '{definition}' has a rule that does not fit '{kind}': {error}"
        raise DefinitionError(problem, hint="correct the rule in initial_weights()") from None
    return InitialRow(
        pattern, str(rule), kind, len(parameters), shape, rule.std(shape), bool(parameters[0].requires_grad)
    )
