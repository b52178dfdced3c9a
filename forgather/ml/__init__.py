"""Documented import names for models: no_init_weights, default_dtype, checkpoints. Implemented in forgather_core."""
