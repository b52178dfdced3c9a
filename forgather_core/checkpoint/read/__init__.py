"""Read checkpoints of any origin and load them into a model."""
