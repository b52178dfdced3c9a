"""Look up a definition's reference: an independent implementation of its equations and initialization."""

from __future__ import annotations

from ...definitions.check import DoesNotApply
from ...definitions.definition import import_object
from ...errors import DefinitionError
from ...reference import Reference
from .model_under_test import ModelUnderTest


def reference_of(subject: ModelUnderTest) -> Reference:
    """Return the reference of the model's definition.

    Raises:
        DoesNotApply: The directory was not made by an installed definition, or the definition has no reference.
        DefinitionError: `reference` of the definition is not a `Reference`.
    """
    definition = subject.definition
    if definition is None:
        raise DoesNotApply("this directory was not made by an installed definition")
    if definition.reference is None:
        raise DoesNotApply(f"the definition '{definition.name}' has no reference")
    found = import_object(definition.reference, definition)
    if not isinstance(found, Reference):
        raise DefinitionError(
            f"the definition's reference '{definition.reference}' ({definition.name}) is not valid: "
            f"expected a Reference, got a {type(found).__name__}"
        )
    return found
