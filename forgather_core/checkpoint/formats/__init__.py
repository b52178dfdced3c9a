"""Checkpoint formats: names, indexes, checksums, and single files of tensors."""
