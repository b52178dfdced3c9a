"""Models: building without initial weights, default dtypes, checkpoints. The code is forgather_core's."""
