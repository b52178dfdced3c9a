"""Fixtures of the tests over all definitions."""

from __future__ import annotations

import shutil
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from forgather_core.commands.construct import construct
from forgather_core.definitions.registry import Registry
from forgather_core.settings.layers import find_configuration
from forgather_core.settings.resolve import resolve

from .checkpoints import SMALL, Export
from .tiny import DEFINITIONS


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Export:
    """Return the exported directory of a tiny model, without weights. It is shared: write to a copy."""

    @cache
    def export(definition: str, **options: Any) -> Path:
        flags = DEFINITIONS[definition].options | SMALL | {"tokenizer": "bytes"} | options
        place = tmp_path_factory.mktemp("exported") / definition
        resolved = resolve(
            find_configuration(f"{definition}/4M", Registry(), Path()), flags | {"output_dir": str(place)}
        )
        return construct(resolved, project=place.parent).directory.path

    return export


@pytest.fixture
def directory(exported: Export, tmp_path: Path) -> Export:
    """Return a writable copy of an exported directory."""

    def copy(definition: str, **options: Any) -> Path:
        # The same name: loaders import the sources once for all directories with the same name.
        return Path(shutil.copytree(exported(definition, **options), tmp_path / "copy" / definition))

    return copy
