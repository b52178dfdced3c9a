"""`default_dtype()`: torch's default floating-point type for a while."""

from forgather_core.model.dtypes import default_dtype

__all__ = ["default_dtype"]
