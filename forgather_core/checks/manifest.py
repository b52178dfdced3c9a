"""The manifest: the files of a directory are those that Forgather wrote, by their digests in `forgather.json`."""

from __future__ import annotations

from collections.abc import Iterator

from ..definitions.check import DoesNotApply, Measured, check, expect
from ..model.manifest import edited_files, read_manifest
from .subject import ModelUnderTest


@check("manifest", cause="somebody has edited the file, or a copy is not whole; `construct -r` writes it again")
def manifest(subject: ModelUnderTest) -> Iterator[Measured]:
    """Every file of the directory is as Forgather wrote it."""
    written = read_manifest(subject.directory)
    if written is None:
        raise DoesNotApply("Forgather did not write the directory: it has no forgather.json")
    yield expect("the manifest lists files", bool(written.files))
    edited = edited_files(subject.directory, written.files)
    for name in written.files:
        yield expect(name, name not in edited, f"{name} is {edited.get(name)}")
