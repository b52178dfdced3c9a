"""Tokenizers: lookup, facts, chat templates and training."""
