"""Read the directory of a zip archive within limits: Python's zipfile trusts the sizes that an archive states.

The format: https://pkware.cachefly.net/webdocs/APPNOTE/APPNOTE-6.3.9.TXT, sections 4.3.7, 4.3.12, 4.3.14 to 4.3.16.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import NamedTuple

from ...filesystem.printable import printable_name
from .stored import Readable

MOST_RECORDS = 131_072  # a mixture of experts has tens of thousands of tensors
_MOST_DIRECTORY = 64_000_000  # bytes

_END = struct.Struct("<4s4H2LH")
_LOCATOR = struct.Struct("<4sLQL")
_END_64 = struct.Struct("<4sQ2H2L4Q")
_ENTRY = struct.Struct("<4s6H3L5H2L")
_LOCAL = struct.Struct("<4s22xHH")
_LONGEST_COMMENT = 65_535
_USUAL_COMMENT = 4_096  # the size of a manifest
_STORED = 0
_ENCRYPTED = 1
_UTF8 = 0x800
_LARGE = 0xFFFFFFFF
_ZIP64 = 1  # the type of an extra field


class DamagedZip(ValueError):  # noqa: N818 - it never leaves the readers of .bin files
    """The reason why an archive is invalid, as part of a sentence."""


@dataclass(frozen=True, slots=True)
class Record:
    """A record of an archive.

    Args:
        name: Name of the record.
        header: Start of its local header, in bytes from the beginning of the file.
        size: Size of its content in bytes.
        is_plain: Whether it is neither compressed nor encrypted.
    """

    name: str
    header: int
    size: int
    is_plain: bool


class _Directory(NamedTuple):
    records: int
    size: int
    offset: int
    end: int


def is_archive(file: Readable) -> bool:
    """Return whether a file ends like a zip archive."""
    return _end(file) is not None


def comment_of(file: Readable) -> bytes:
    """Return the comment at the end of an archive; empty if there is none.

    Raises:
        OSError: The file cannot be read.
    """
    found = _end(file)
    size = found[1][-1] if found is not None else 0
    return file.read_bytes(size, file.size - size)


def read_directory(file: Readable) -> list[Record]:
    """Read the records of an archive.

    Raises:
        DamagedZip: The directory of the archive is damaged, or is larger than a weight file needs.
        OSError: The file cannot be read.
    """
    found = _find_directory(file)
    if found.offset + found.size > found.end:
        raise DamagedZip("the directory of its archive extends beyond the file")
    if found.records > MOST_RECORDS:
        raise DamagedZip(f"its archive has {found.records:,} records; at most {MOST_RECORDS:,} are supported")
    if found.size > _MOST_DIRECTORY or found.size < found.records * _ENTRY.size:
        raise DamagedZip(
            f"the directory of its archive has an invalid size: {found.size:,} bytes for {found.records:,} records"
        )
    data = file.read_bytes(found.size, found.offset)
    records, at = [], 0
    for _ in range(found.records):
        if at + _ENTRY.size > len(data):
            raise DamagedZip("the directory of its archive ends too early")
        record, at = _record(data, at)
        records.append(record)
    if at != len(data):
        raise DamagedZip("the directory of its archive has more records than its end record states")
    if len({record.name for record in records}) != len(records):
        seen: set[str] = set()
        twice = next(r.name for r in records if r.name in seen or seen.add(r.name))  # type: ignore[func-returns-value]
        raise DamagedZip(f"it holds '{printable_name(twice)}' twice")
    return records


def content_offsets(file: Readable, records: list[Record]) -> list[int]:
    """Return the offset of each record's content in bytes. Contents lie within the file and do not overlap.

    Raises:
        DamagedZip: The content of a record is outside the file, or overlaps another record.
        OSError: The file cannot be read.
    """
    starts = [_start(file, record) for record in records]
    end = 0
    for start, record in sorted(zip(starts, records, strict=True), key=lambda pair: pair[1].header):
        if record.header < end:
            raise DamagedZip(f"'{printable_name(record.name)}' overlaps another record")
        end = start + record.size
    return starts


def _start(file: Readable, record: Record) -> int:
    if record.header + _LOCAL.size > file.size:
        raise DamagedZip("it is truncated")
    signature, name, extra = _LOCAL.unpack(file.read_bytes(_LOCAL.size, record.header))
    if signature != b"PK\x03\x04":
        raise DamagedZip(
            f"'{printable_name(record.name)}' is not at the offset that the directory of the archive states"
        )
    start: int = record.header + _LOCAL.size + name + extra
    if start + record.size > file.size:
        raise DamagedZip("it is truncated")
    return start


def _end(file: Readable) -> tuple[int, tuple[int, ...]] | None:
    """Return the start of the end record, and its fields."""
    for comment in (0, _USUAL_COMMENT, _LONGEST_COMMENT):  # torch writes no comment
        if (found := _end_within(file, min(file.size, _END.size + comment))) is not None:
            return found
    return None


def _end_within(file: Readable, size: int) -> tuple[int, tuple[int, ...]] | None:
    tail = file.read_bytes(size, file.size - size)
    at = len(tail)
    while (at := tail.rfind(b"PK\x05\x06", 0, at)) >= 0:
        if at + _END.size <= len(tail):
            fields = _END.unpack_from(tail, at)
            if at + _END.size + fields[-1] == len(tail):
                return file.size - size + at, fields[1:]
    return None


def _find_directory(file: Readable) -> _Directory:
    found = _end(file)
    if found is None:
        raise DamagedZip("it is truncated")
    at, (_, _, _, count, size, offset, _) = found
    locator = at - _LOCATOR.size
    if locator >= 0:
        signature, _, end, _ = _LOCATOR.unpack(file.read_bytes(_LOCATOR.size, locator))
        if signature == b"PK\x06\x07":
            if end + _END_64.size > locator:
                raise DamagedZip("the directory of its archive extends beyond the file")
            fields = _END_64.unpack(file.read_bytes(_END_64.size, end))
            if fields[0] != b"PK\x06\x06":
                raise DamagedZip("the directory of its archive is damaged")
            _, records, total, start = fields[-4:]
            return _Directory(records, total, start, end)
    return _Directory(count, size, offset, at)


def _record(data: bytes, at: int) -> tuple[Record, int]:
    entry = _ENTRY.unpack_from(data, at)
    signature, _, _, flags, method, _, _, _, packed, size, name, extra, comment, _, _, _, header = entry
    if signature != b"PK\x01\x02":
        raise DamagedZip("the directory of its archive is damaged")
    at += _ENTRY.size
    after = at + name + extra + comment
    if after > len(data):
        raise DamagedZip("the directory of its archive ends too early")
    text = data[at : at + name].decode("utf-8" if flags & _UTF8 else "cp437", errors="strict")
    if _LARGE in (packed, size, header):
        size, packed, header = _zip64_numbers(data[at + name : at + name + extra], size, packed, header)
    plain = method == _STORED and packed == size and not flags & _ENCRYPTED
    return Record(text, header, size, plain), after


def _zip64_numbers(extra: bytes, *numbers: int) -> tuple[int, ...]:
    """Return the numbers, with those too large for their fields replaced by the values of the zip64 extra field."""
    at = 0
    while at + 4 <= len(extra):
        kind, size = struct.unpack_from("<2H", extra, at)
        if kind == _ZIP64:
            field, found, offset = extra[at + 4 : at + 4 + size], [], 0
            for number in numbers:
                if number != _LARGE:
                    found.append(number)
                    continue
                if offset + 8 > len(field):
                    raise DamagedZip("the directory of its archive is damaged")
                found.append(int.from_bytes(field[offset : offset + 8], "little"))
                offset += 8
            return tuple(found)
        at += 4 + size
    raise DamagedZip("the directory of its archive is damaged")
