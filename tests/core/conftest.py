"""Fixtures of all tests of the core."""

from tests.support.plugins import make_registry
from tests.support.settings import small

__all__ = ["make_registry", "small"]
