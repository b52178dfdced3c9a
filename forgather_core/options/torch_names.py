"""Names of torch's dtypes and devices, which options check without importing torch."""

from __future__ import annotations

from ..errors import ConfigurationError
from .spec import did_you_mean

DTYPE_NAMES = ("float32", "bfloat16", "float16", "float64")
DEVICE_TYPES = ("meta", "cpu", "cuda", "mps")
_ALIASES = {
    "bf16": "bfloat16",
    "fp16": "float16",
    "half": "float16",
    "fp32": "float32",
    "float": "float32",
    "fp64": "float64",
    "double": "float64",
}
_SHORT = ("bf16", "fp16", "fp32", "fp64")


def dtype_name(text: str) -> str:
    """Return torch's name of a floating-point dtype, with or without `torch.`, or bf16, fp16, fp32, fp64.

    Raises:
        ConfigurationError: The name is unknown, or a model cannot be built in that dtype.
    """
    plain = text.strip().lower().removeprefix("torch.")
    plain = _ALIASES.get(plain, plain)
    if plain not in DTYPE_NAMES:
        problem = f"must be one of {', '.join(DTYPE_NAMES)} (or {', '.join(_SHORT)}); got '{text}'"
        raise ConfigurationError(problem, hint=did_you_mean(plain, (*DTYPE_NAMES, *_SHORT)))
    return plain


def device_parts(text: str, *, real: bool = False) -> tuple[str, int | None]:
    """Return the type and the index of a device, `("cuda", 1)` for "cuda:1".

    Args:
        text: The name.
        real: Refuse the meta device.

    Raises:
        ConfigurationError: The name is invalid.
    """
    kind, _, index = text.partition(":")
    kinds = DEVICE_TYPES[1:] if real else DEVICE_TYPES
    if kind not in kinds or (index and not index.isdigit()):
        problem = f"must be {'' if real else 'meta, '}cpu, cuda, cuda:N or mps; got '{text}'"
        raise ConfigurationError(problem, hint=did_you_mean(text, kinds))
    return kind, int(index) if index else None
