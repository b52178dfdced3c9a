"""`no_init_weights()`: build a model without computing initial weights that a checkpoint will overwrite."""

from forgather_core.model import no_init as _core

from ..public import public as _public

__all__ = ["no_init_weights"]

no_init_weights = _public(exclusive=False)(_core.no_init_weights)
