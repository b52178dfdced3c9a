"""Optional packages, and the extra of this distribution that installs each."""

from __future__ import annotations

import importlib.util

from ..errors import ForgatherError

# Name of a missing package in error messages: its import name, and the extra in pyproject.toml.
_EXTRAS = {
    "flash-attn": ("flash_attn", "flash-attention"),
    "sentencepiece": ("sentencepiece", "tokenizers"),
    "protobuf": ("google.protobuf", "tokenizers"),
    "tiktoken": ("tiktoken", "tokenizers"),
    "zstd": ("zstandard", "compression"),
}


def install_hint(reason: str) -> str:
    """Return the install command of the optional package that an error names, as a hint; "" if none is missing.

    Args:
        reason: Error message of any library.
    """
    for name, (module, extra) in _EXTRAS.items():
        if name in reason.lower() and not _is_installed(module):
            return f"; install it with: pip install 'forgather[{extra}]'"
    return ""


def require(module: str, extra: str) -> None:
    """Check that an optional package is installed, before any work is done.

    Args:
        module: Import name of the package.
        extra: The extra of this distribution that installs it.

    Raises:
        ForgatherError: The package is not installed.
    """
    if not _is_installed(module):
        raise ForgatherError(
            f"the package {module} is not installed", hint=f"install it with: pip install 'forgather[{extra}]'"
        )


def _is_installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ImportError:  # a parent package is missing
        return False
