"""`no_init_weights()`: build a model without drawing weights that a checkpoint will overwrite."""

from forgather_core.model.no_init import no_init_weights

__all__ = ["no_init_weights"]
