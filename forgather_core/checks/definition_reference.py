"""The reference that a definition names: its equations and initialization, written a second time."""

from __future__ import annotations

from ..definitions.check import DoesNotApply
from ..definitions.definition import import_object
from ..errors import DefinitionError
from ..reference import Reference
from .model_under_test import ModelUnderTest


def reference_of(subject: ModelUnderTest) -> Reference:
    """Return the reference of the model's definition.

    Raises:
        DoesNotApply: The directory has no installed definition, or its definition names no reference.
        DefinitionError: The definition names an object that is not a `Reference`.
    """
    definition = subject.definition
    if definition is None:
        raise DoesNotApply("no installed definition made this directory")
    if definition.reference is None:
        raise DoesNotApply(f"the definition '{definition.name}' names no reference")
    found = import_object(definition.reference, definition)
    if not isinstance(found, Reference):
        raise DefinitionError(
            f"the definition '{definition.name}' names '{definition.reference}' as its reference: "
            f"expected a Reference, got a {type(found).__name__}"
        )
    return found
