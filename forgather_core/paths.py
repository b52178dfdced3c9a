"""Paths as people type them."""

from __future__ import annotations

import os
from pathlib import Path


def expanded(path: str | os.PathLike[str]) -> Path:
    """With `~` expanded where there is such a home; left alone where there is none."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        return Path(path)
