"""`default_dtype()`: change torch's default floating-point dtype within a block."""

from forgather_core.model import dtypes as _core

from ..public import public as _public

__all__ = ["default_dtype"]

default_dtype = _public(exclusive=False)(_core.default_dtype)
