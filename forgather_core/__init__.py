"""Public names for plugin authors. Importing this package does not import torch, transformers or omegaconf."""

from .definitions.definition import ModelDefinition
from .definitions.hookspecs import hookimpl
from .deprecated import moved_module
from .option import inherited, option

__all__ = ["ModelDefinition", "hookimpl", "inherited", "option"]

moved_module(f"{__name__}.definition", ModelDefinition.__module__, {})
moved_module(f"{__name__}.hookspecs", f"{__name__}.definitions.hookspecs", {})
