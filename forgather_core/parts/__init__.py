"""Building blocks of models. Each module here may be exported: it imports torch, transformers and its siblings only."""
