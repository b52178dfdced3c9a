"""A configuration without a directory."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ...errors import CheckError, access_hint
from ...filesystem.strict_json import read_object


@contextmanager
def model_directory(path: Path) -> Iterator[Path]:
    """Provide a model directory: that of a path or, for a JSON file, a temporary one with it as config.json.

    Raises:
        CheckError: The file cannot be read.
    """
    if path.name == "config.json" and path.is_file():
        yield path.parent  # it may need the other files
        return
    if path.suffix != ".json" or not path.is_file():
        yield path
        return
    try:
        has_code = "auto_map" in read_object(path)
    except (OSError, ValueError) as error:
        raise CheckError(f"cannot be read: {error}", file=path, hint=access_hint(error)) from None
    if has_code:
        raise CheckError("names code of its directory", file=path, hint="name the directory")
    with tempfile.TemporaryDirectory(prefix="forgather-config-") as folder:
        directory = Path(folder) / "model"
        directory.mkdir()
        shutil.copyfile(path, directory / "config.json")
        yield directory
