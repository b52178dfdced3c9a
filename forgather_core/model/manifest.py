"""`forgather.json`: the inputs of a model directory, and a digest of every file that Forgather wrote."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ..errors import DirectoryError, first_line
from ..filesystem.disk import read_regular
from ..filesystem.model_files import TEMPLATES

MANIFEST = "forgather.json"
FORMAT = 1
EDITED, MISSING, SPECIAL = "edited", "missing", "not a regular file"

_LIMIT = 16 * 2**20  # maximum bytes of JSON
_LARGEST = 256 * 2**20  # maximum bytes of a file that Forgather may have written; a vocabulary is the largest

# transformers rewrites these files when it saves weights beside them. The values that it may change do not affect the
# model; everything else in the file must stay the same.
VOLATILE = frozenset(
    {"transformers_version", "dtype", "torch_dtype", "architectures", "_from_model_config", "_name_or_path"}
)
REWRITTEN_BY_TRANSFORMERS = {
    "config.json": VOLATILE,
    # from_config makes a generation configuration from the model's configuration, with these defaults written out.
    "generation_config.json": VOLATILE | {"use_cache", "output_attentions", "output_hidden_states"},
}

_CHOOSE_ANOTHER = "restore the file, or choose another directory"


@dataclass(frozen=True)
class FileRecord:
    """A file: its digest, its origin, and (for JSON that transformers rewrites) a digest of the values that matter."""

    sha256: str
    origin: str
    meaning: str | None = None


@dataclass(frozen=True)
class OptionRecord:
    """The resolved value of an option, and its origin."""

    value: Any
    origin: str


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """The content of `forgather.json`. Equal inputs give equal manifests: it contains no times and no local paths."""

    configuration: str
    definition: Mapping[str, str]
    model_name: str
    options: Mapping[str, OptionRecord]
    tokenizer: Mapping[str, Any]
    chat_template: str | None
    requires: tuple[str, ...]
    versions: Mapping[str, str]
    native: str | None = None  # the transformers class that also loads the directory
    files: Mapping[str, FileRecord] = field(default_factory=dict)
    format: int = FORMAT

    def to_json(self) -> str:
        """Return the content of the file."""
        return json.dumps(asdict(self), indent=2, ensure_ascii=False) + "\n"


def record(name: str, data: bytes, origin: str) -> FileRecord:
    """Return the record of the file `name` with these bytes."""
    return FileRecord(_sha256(data), origin, _meaning(name, data))


def read_manifest(directory: Path) -> Manifest | None:
    """Return the manifest of a model directory, or None if there is none.

    Raises:
        DirectoryError: The manifest cannot be parsed.
    """
    file = directory / MANIFEST
    try:
        data = json.loads(read_regular(file, _LIMIT).decode("utf-8-sig"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError) as error:
        raise DirectoryError(f"cannot be read: {first_line(error)}", file=file, hint=_CHOOSE_ANOTHER) from None
    try:
        if data["format"] != FORMAT:
            problem = f"has format {str(data['format'])[:20]!r}; this version of Forgather supports format {FORMAT}"
            raise DirectoryError(problem, file=file, hint=f"update Forgather, or {_CHOOSE_ANOTHER}")
        data["options"] = {name: OptionRecord(**item) for name, item in data["options"].items()}
        data["files"] = {name: FileRecord(**item) for name, item in data["files"].items()}
        data["requires"] = tuple(data["requires"])
        if bad := next((name for name in data["files"] if not _is_own(name)), None):
            raise ValueError(f"{bad[:100]!r} is not the name of a file in the directory")
        return Manifest(**data)
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise DirectoryError(f"is damaged ({repr(error)[:200]})", file=file, hint=_CHOOSE_ANOTHER) from None


def _is_own(name: str) -> bool:
    """Return whether Forgather may have written a file of this name, relative to the directory."""
    return _is_plain(name.removeprefix(f"{TEMPLATES}/"))


def _is_plain(name: str) -> bool:
    return name.isprintable() and "/" not in name and name not in ("", ".", "..")


def edited_files(
    directory: Path, files: Mapping[str, FileRecord], names: Iterable[str] | None = None
) -> dict[str, str]:
    """Return the files that changed since Forgather wrote them, by name: EDITED, MISSING or SPECIAL.

    SPECIAL is anything other than a readable regular file: a directory, a pipe, a dangling link. Pipes and devices are
    not opened.
    """
    found: dict[str, str] = {}
    for name in names if names is not None else files:
        try:
            data = read_regular(directory / name, _LARGEST)
        except OSError as error:
            too_large = error.errno == errno.EFBIG
            found[name] = EDITED if too_large else SPECIAL if os.path.lexists(directory / name) else MISSING
            continue
        if not _same(name, files[name], data):
            found[name] = EDITED
    return found


def _same(name: str, old: FileRecord, data: bytes) -> bool:
    if _sha256(data) == old.sha256:
        return True
    return old.meaning is not None and _meaning(name, data) == old.meaning


def _meaning(name: str, data: bytes) -> str | None:
    """Return a digest of a JSON object without the values that do not affect the model; None for other files."""
    if name not in REWRITTEN_BY_TRANSFORMERS:
        return None
    volatile = REWRITTEN_BY_TRANSFORMERS[name]
    if len(data) > _LIMIT:
        return None
    try:
        content = json.loads(data)
    except (ValueError, RecursionError):
        return None
    if not isinstance(content, dict):
        return None
    kept = {key: value for key, value in content.items() if key not in volatile and value is not None}
    return _sha256(json.dumps(kept, sort_keys=True).encode())


def _sha256(data: bytes) -> str:
    import hashlib  # takes 2 ms to import, and `show` does not need it

    return hashlib.sha256(data).hexdigest()
