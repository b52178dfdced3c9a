"""What a plugin author imports. Light: nothing here imports torch, transformers or omegaconf."""

from .definition import ModelDefinition
from .hookspecs import hookimpl
from .option import inherited, option

__all__ = ["ModelDefinition", "hookimpl", "inherited", "option"]
