"""Train a model with transformers' Trainer, and evaluate and sample it. Only `run` requires accelerate."""
