"""Simulate a power cut: what a disk may hold at any moment of a save, given what was made durable before.

Nothing is taken for granted but fsync: the content of a file that was not synced is empty, torn or whole; an entry of a
directory that was not synced is there or not, each by itself, in any order. Real file systems lose less than that.
"""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from unittest import mock

Entry = tuple[int, str]  # inode of the directory, name


@dataclass(repr=False)
class Disk:
    """A disk: what is durable, and what is only in memory.

    Args:
        root: The directory that is watched.
    """

    root: Path
    entries: dict[Entry, int] = field(default_factory=dict)  # durable
    content: dict[int, bytes] = field(default_factory=dict)  # durable, of regular files
    directories: set[int] = field(default_factory=set)
    live: dict[Entry, int] = field(default_factory=dict)
    pending: dict[Entry, list[int | None]] = field(default_factory=dict)  # values of an entry since then; None: removed
    current: dict[int, bytes] = field(default_factory=dict)  # as a process sees it
    held: dict[int, int] = field(default_factory=dict)  # descriptors, so that no inode number is reused

    def __post_init__(self) -> None:
        self._scan()
        self.entries, self.content, self.pending = dict(self.live), dict(self.current), {}

    def sync(self, descriptor: int) -> None:
        """Make a file or a directory durable."""
        inode = os.fstat(descriptor).st_ino
        self._scan()
        if inode in self.directories:
            for entry in [entry for entry in self.pending if entry[0] == inode]:
                self._apply(entry, self.pending.pop(entry)[-1])
        elif inode in self.current:
            self.content[inode] = self.current[inode]

    def image(self, place: Path, choose: random.Random) -> None:
        """Write a state that the disk may have after a power cut into an empty `place`."""
        self._scan()
        entries = dict(self.entries)
        for entry, states in self.pending.items():
            state = choose.choice([entries.get(entry), *states])
            if state is None:
                entries.pop(entry, None)
            else:
                entries[entry] = state
        self._build(self.root.stat().st_ino, place, entries, choose)

    def _build(self, inode: int, place: Path, entries: dict[Entry, int], choose: random.Random) -> None:
        place.mkdir(exist_ok=True)
        for (parent, name), child in entries.items():
            if parent != inode:
                continue
            if child in self.directories:
                self._build(child, place / name, entries, choose)
            elif child in self.content and self.content[child] == self.current.get(child, self.content[child]):
                (place / name).write_bytes(self.content[child])
            else:
                data = self.current.get(child, b"")
                (place / name).write_bytes(choose.choice([self.content.get(child, b""), data[: len(data) // 2], data]))

    def _hold(self, inode: int, path: str) -> None:
        if inode not in self.held:
            self.held[inode] = os.open(path, os.O_RDONLY)

    def close(self) -> None:
        """Close the descriptors."""
        for descriptor in self.held.values():
            os.close(descriptor)
        self.held.clear()

    def _apply(self, entry: Entry, state: int | None) -> None:
        if state is None:
            self.entries.pop(entry, None)
        else:
            self.entries[entry] = state

    def _scan(self) -> None:
        found: dict[Entry, int] = {}
        for directory, _, _ in os.walk(self.root):
            inode = Path(directory).stat().st_ino
            self.directories.add(inode)
            self._hold(inode, directory)
            with os.scandir(directory) as entries:
                for entry in entries:
                    found[inode, entry.name] = entry.inode()
                    if entry.is_file(follow_symlinks=False):
                        self._hold(entry.inode(), entry.path)
                        self.current[entry.inode()] = Path(entry.path).read_bytes()
        for key in found.keys() | self.live.keys():
            if found.get(key) != self.live.get(key):
                self.pending.setdefault(key, []).append(found.get(key))
        self.live = found


@contextmanager
def watching(disk: Disk, moment: Callable[[], None]) -> Iterator[None]:
    """Report every fsync within the block to the disk, and call `moment` before and after each takes effect."""
    real = os.fsync

    def fsync(descriptor: int) -> None:
        moment()
        real(descriptor)
        disk.sync(descriptor)
        moment()

    with mock.patch.object(os, "fsync", fsync):
        yield


def emptied(place: Path) -> Path:
    """Empty the directory and return it."""
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir()
    return place
