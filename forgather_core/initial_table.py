"""`show --init`: the table of initial weights, read from the definition's own code, with the weights each row fills."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import torch

from .definition import import_object
from .errors import DefinitionError
from .export.model_config import config_values, option_values, token_ids
from .export.tokenizer import load_tokenizer, quick_facts
from .kinds import kind_of
from .parts.table_init import find_row
from .settings import Settings


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
        DefinitionError: The definition has no table, or no row of it matches a weight.
    """
    definition = settings.configuration.definition
    place = {"base": settings.base_of("tokenizer")}
    tokenizer = settings.directory.tokenizer
    facts = quick_facts(tokenizer, **place) or load_tokenizer(tokenizer, **place).facts
    values = config_values(definition, option_values(settings, facts), facts, token_ids(settings, facts))
    config = import_object(definition.config, definition)(**values)
    with torch.device("meta"):
        model = import_object(definition.model, definition)(config)
    if not hasattr(model, "initial_weights"):
        raise DefinitionError(f"'{definition.name}' has no table of initial weights (initial_weights())")
    table = list(model.initial_weights())
    kinds: dict[str, list[Any]] = {}
    for name, parameter in model.named_parameters():  # a tied head is the embedding, and filled as that
        kinds.setdefault(kind_of(name), []).append(parameter)
    rows = {kind: _row_of(kind, table, definition.name) for kind in kinds}
    order = sorted(kinds, key=lambda kind: rows[kind])  # of the table, then of the model
    return [asdict(_describe(kind, kinds[kind], *table[rows[kind]])) for kind in order]


def _row_of(kind: str, table: list[tuple[str, Any]], definition: str) -> int:
    try:
        return find_row(table, kind)
    except ValueError:
        message = f"no row of the table of initial weights of '{definition}' matches '{kind}'"
        raise DefinitionError(message) from None


def _describe(kind: str, parameters: list[Any], pattern: str, rule: Any) -> InitialRow:
    shape = tuple(parameters[0].shape)
    return InitialRow(
        pattern, str(rule), kind, len(parameters), shape, rule.std(shape), bool(parameters[0].requires_grad)
    )
