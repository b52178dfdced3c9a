"""Public names for plugin authors. Importing this package does not import torch, transformers or omegaconf."""

from .definitions.definition import ModelDefinition
from .definitions.hookspecs import hookimpl
from .option import inherited, option

__all__ = ["ModelDefinition", "hookimpl", "inherited", "option"]
