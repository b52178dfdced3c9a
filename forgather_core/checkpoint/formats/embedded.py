"""The manifest embedded in a single-file checkpoint. One rename replaces the weights and the manifest together.

The manifest is JSON, and contains the metadata of an index without the weight map. In safetensors it is the value of
`forgather` in `__metadata__`. In a `.bin` file it is the comment at the end of the zip archive. Tensors with NaN or Inf
are marked by one bit each, in the order of the file, because the size of the header must be known before the data.

The checksum in the manifest covers every byte of the file except its own digits, for which a placeholder is hashed. In
safetensors the data is hashed before the header. In a `.bin` file the archive without a comment is hashed before the
comment and its size.
"""

from __future__ import annotations

import hashlib
import json
import re
import struct
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

from ...filesystem.disk import read_bytes
from .checksum import Checksum, record, recorded
from .layout import SAFETENSORS, Index
from .stored import WeightFile
from .strict_json import parse_object

KEY = "forgather"  # in the metadata of a safetensors file
COMMENT_LIMIT = 4000  # bytes; torch's reader of archives fails on some small files with a longer comment

_BLANK = "_"
_BRACKETS = 10
_DEPTH = 3
_VERSION = "forgather_version"
_COMMENT_SIZE = struct.Struct("<H")
_PREFIX = struct.Struct("<Q")


def blank_checksum() -> str:
    """Return the placeholder that is hashed in place of the checksum."""
    return _BLANK * len(Checksum().text())


def manifest_text(
    metadata: Mapping[str, Any], names: Sequence[str], non_finite: Collection[str], *, limit: int | None = None
) -> str:
    """Return the manifest as JSON. Its length depends on the number of tensors, not on which are non-finite.

    Args:
        metadata: The metadata of an index, with a placeholder for the checksum.
        names: The tensors in the order of the file.
        non_finite: The tensors that contain NaN or Inf.
        limit: Maximum length in characters; a longer manifest omits the record of non-finite tensors.
    """
    marked = set(non_finite)
    bits = int("0" + "".join("1" if name in marked else "0" for name in names), 2)
    text = json.dumps({**metadata, "non_finite": f"{bits:0{_digits(len(names))}x}"}, separators=(",", ":"))
    if limit is not None and len(text) > limit:
        text = json.dumps({k: v for k, v in metadata.items() if k != "non_finite"}, separators=(",", ":"))
    return text


def with_checksum(text: bytes, checksum: str) -> bytes:
    """Return a header or a comment with its placeholder replaced by the checksum."""
    return text.replace(_BLANK.encode() * len(checksum), checksum.encode(), 1)


def comment_bytes(manifest: str) -> tuple[int, bytes]:
    """Return the offset of a zip comment's size field from the end of the archive, and the field with the comment."""
    data = manifest.encode()
    return -_COMMENT_SIZE.size, _COMMENT_SIZE.pack(len(data)) + data


def read_manifest(text: str | bytes | None, file: str, names: Sequence[str]) -> Index | None:
    """Parse a manifest from metadata or a zip comment; return None if Forgather did not write one.

    The `digest` of the result is the digest of an empty text: a seal contains the mtime and ctime of the file, so it
    already detects a changed manifest.

    Args:
        text: The JSON, which is not trusted.
        file: Name of the file, which may have been renamed since.
        names: The tensors in the order of the file.
    """
    try:
        data = text.encode() if isinstance(text, str) else text or b""
        content = parse_object(data, _BRACKETS, depth=_DEPTH)
    except ValueError:
        return None
    if _VERSION not in content:
        return None
    bits = content.pop("non_finite", None)
    if isinstance(bits, str) and re.fullmatch(f"[0-9a-f]{{{_digits(len(names))}}}", bits):
        flags = f"{int(bits, 16):0{len(names)}b}"
        if len(flags) == len(names):
            content["non_finite"] = sorted(name for name, flag in zip(names, flags, strict=True) if flag == "1")
    content = record(content, dict.fromkeys([file], next(iter(recorded(content).values()), "")))
    return Index(dict.fromkeys(names, file), content, hashlib.sha256().hexdigest())


def _digits(count: int) -> int:
    """Return the number of hexadecimal digits that hold `count` bits."""
    return max(1, -(-count // 4))


def covered(file: WeightFile, checksum: str) -> Iterator[tuple[int, int] | bytes]:
    """Yield the byte ranges (start, end) or bytes that the checksum of a file with a manifest covers, in order.

    Raises:
        OSError: The file cannot be read.
    """
    own, blank = checksum.encode(), _BLANK.encode() * len(checksum)
    if file.path.suffix == SAFETENSORS.suffix:
        end = _PREFIX.size + _PREFIX.unpack(read_bytes(file.descriptor, _PREFIX.size, 0))[0]
        yield end, file.size
        yield read_bytes(file.descriptor, end, 0).replace(own, blank, 1)
        return
    from .zip_directory import comment_of

    comment = comment_of(file)
    end = file.size - len(comment) - _COMMENT_SIZE.size
    yield 0, end
    yield _COMMENT_SIZE.pack(0)  # as torch writes it
    yield read_bytes(file.descriptor, file.size - end, end).replace(own, blank, 1)
