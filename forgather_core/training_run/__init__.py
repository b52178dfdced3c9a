"""Train a model with transformers' Trainer, evaluate it, and generate samples. Only `run` requires accelerate."""
