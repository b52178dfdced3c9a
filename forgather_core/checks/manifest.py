"""Manifest: the files of the directory have the digests that `forgather.json` lists."""

from __future__ import annotations

from collections.abc import Iterator

from ..definitions.check import DoesNotApply, Measured, check, expect
from ..model.manifest import edited_files, read_manifest
from .shared.model_under_test import ModelUnderTest


@check("manifest", cause="an edited file or an incomplete copy; `construct -r` writes the files again")
def manifest(subject: ModelUnderTest) -> Iterator[Measured]:
    """Every file of the directory is as Forgather wrote it."""
    written = read_manifest(subject.directory)
    if written is None:
        raise DoesNotApply("Forgather did not write the directory: it has no forgather.json")
    yield expect("the manifest lists files", bool(written.files))
    edited = edited_files(subject.directory, written.files)
    for name in written.files:
        state = edited.get(name)
        yield expect(f"{name} is unchanged", name not in edited, failure=f"{name} is {state}")
