"""The manifest of a checkpoint that is one file, kept in that file: a save changes both in one rename.

It has what an index has beside the map of names. In safetensors it is the value of `forgather` in `__metadata__`, in
`.bin` files the comment at the end of the zip archive, both as JSON. Its checksum covers every byte of the file except
the checksum itself, for which a placeholder is hashed: in safetensors the data, then the header; in `.bin` files the
archive without a comment, then the comment with its size. Tensors with NaN or Inf are bits in the order of the file,
because the size of the header must be known before the data are.
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

KEY = "forgather"  # in the metadata of safetensors
COMMENT_LIMIT = 4000  # bytes; torch's reader of archives fails on some small files with a longer comment

_BLANK = "_"
_BRACKETS = 10
_DEPTH = 3
_VERSION = "forgather_version"
_COMMENT_SIZE = struct.Struct("<H")
_PREFIX = struct.Struct("<Q")


def blank_checksum() -> str:
    """Return the placeholder that is hashed in the place of a checksum."""
    return _BLANK * len(Checksum().text())


def manifest_text(
    metadata: Mapping[str, Any], names: Sequence[str], damaged: Collection[str], *, limit: int | None = None
) -> str:
    """Return the manifest as JSON. Its length depends on the number of tensors, not on which are damaged.

    Args:
        metadata: As in an index, with a placeholder for the checksum.
        names: The tensors in the order of the file.
        damaged: Those that hold NaN or an infinity.
        limit: Largest length in characters; a longer text goes without the record of NaN.
    """
    wrong = set(damaged)
    bits = int("0" + "".join("1" if name in wrong else "0" for name in names), 2)
    text = json.dumps({**metadata, "non_finite": f"{bits:0{_digits(len(names))}x}"}, separators=(",", ":"))
    if limit is not None and len(text) > limit:
        text = json.dumps({k: v for k, v in metadata.items() if k != "non_finite"}, separators=(",", ":"))
    return text


def with_checksum(text: bytes, checksum: str) -> bytes:
    """Return a header or a comment with the checksum in the place of its placeholder."""
    return text.replace(_BLANK.encode() * len(checksum), checksum.encode(), 1)


def comment_bytes(manifest: str) -> tuple[int, bytes]:
    """Return what ends a zip archive, from the size of its comment on, and where that is, from the end of the file."""
    data = manifest.encode()
    return -_COMMENT_SIZE.size, _COMMENT_SIZE.pack(len(data)) + data


def read_manifest(text: str | bytes | None, file: str, names: Sequence[str]) -> Index | None:
    """Read a manifest from metadata or a comment; None where Forgather did not write one.

    The result's `digest` is that of no text: a seal has the times of the file, and so of its manifest.

    Args:
        text: The JSON, which may be anything.
        file: Name of the file, which may have been renamed since.
        names: Its tensors in the order of the file.
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
    """How many hexadecimal digits hold `count` bits."""
    return max(1, -(-count // 4))


def covered(file: WeightFile, checksum: str) -> Iterator[tuple[int, int] | bytes]:
    """Yield what the checksum of a file with a manifest covers, in order: a start and an end in the file, or bytes.

    Raises:
        OSError: It cannot be read.
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
    yield _COMMENT_SIZE.pack(0)  # as torch wrote it
    yield read_bytes(file.descriptor, file.size - end, end).replace(own, blank, 1)
