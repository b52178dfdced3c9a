"""`default_dtype()`: change torch's default floating-point dtype within a block."""

from forgather_core.model.dtypes import default_dtype

__all__ = ["default_dtype"]
