"""Reports of a load and of a save, as plain data and HTML, and the problems of a load in sentences."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar

from ..deprecated import renamed_members
from ..filesystem.printable import tensors, truncated_list
from ..runtime.short_repr import Brief


def counted_names(names: Sequence[str], predicate: str) -> str:
    """Return a message about tensors: `2 tensors are not in the model: a, b`.

    Args:
        names: The tensors; a long list is truncated.
        predicate: The predicate of the sentence: `are not in the model`.
    """
    return f"{tensors(len(names))} {predicate}: {truncated_list(names)}"


@dataclass(frozen=True)
class MissingTensor:
    """A tensor of the model that the checkpoint does not have, and a possible explanation."""

    name: str
    hint: str | None = None


@dataclass(frozen=True)
class OtherShape:
    """A tensor whose shape in the checkpoint differs from its shape in the model."""

    name: str
    stored: tuple[int, ...]
    model: tuple[int, ...]


@renamed_members(as_dict="to_dict")
@dataclass(frozen=True, repr=False)
class LoadReport(Brief):
    """The result of a load. Buffers are treated like parameters. All names of a tied tensor are filled together.

    Args:
        path: The checkpoint.
        loaded: Names in the model that were filled.
        missing: Tensors of the model that are not in the checkpoint, and are unchanged.
        unexpected: Tensors of the checkpoint that the model does not have.
        other_shape: Tensors that were not loaded because their shape differs.
        non_finite: Tensors that were loaded and contain NaN or Inf; None if this was not checked (`assign`).
        verified: Files whose checksum was verified; None if that was not requested.
        unverified: Files that could not be verified because they have no recorded checksum.
        unused: Activation scales of a quantized checkpoint, which dequantized weights do not need.
        notes: How the checkpoint was read, one sentence each: matched names, dequantized weights.
        warnings: Further possible problems, one sentence each.
        tensors: Number of model tensors that were filled. A tied tensor counts once, as in a save.
    """

    kind: ClassVar[str] = "load"  # kind of the HTML page

    path: Path
    loaded: tuple[str, ...]
    missing: tuple[MissingTensor, ...] = ()
    unexpected: tuple[str, ...] = ()
    other_shape: tuple[OtherShape, ...] = ()
    non_finite: tuple[str, ...] | None = ()
    verified: tuple[str, ...] | None = None
    unverified: tuple[str, ...] = ()
    unused: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    tensors: int = 0

    @property
    def complete(self) -> bool:
        """Return whether model and checkpoint have the same tensors."""
        return not (self.missing or self.unexpected or self.other_shape)

    def to_dict(self) -> dict[str, Any]:
        """Return the report as plain data."""
        return {
            "path": str(self.path),
            "loaded": self.tensors,
            "missing": [asdict(item) for item in self.missing],
            "unexpected": list(self.unexpected),
            "other_shape": [
                {"name": item.name, "stored": list(item.stored), "model": list(item.model)} for item in self.other_shape
            ],
            "non_finite": None if self.non_finite is None else list(self.non_finite),
            "verified": None if self.verified is None else list(self.verified),
            "unverified": list(self.unverified),
            "unused": list(self.unused),
            "notes": list(self.notes),
            "problems": self.problems(),
        }

    def _repr_html_(self) -> str:
        from ..pages import fragment

        return fragment(self.kind, self.to_dict())

    def problems(self) -> list[str]:
        """Return one sentence for each kind of problem; empty if there is none."""
        missing, other_shape = [item.name for item in self.missing], [item.name for item in self.other_shape]
        kinds = (
            (missing, "of the model is", "of the model are", f"missing from {self.path}"),
            (self.unexpected, f"of {self.path} is", f"of {self.path} are", "not in the model"),
            (other_shape, f"of {self.path} has", f"of {self.path} have", "a different shape than in the model"),
            (self.non_finite or (), "was", "were", f"loaded from {self.path} with NaN or Inf"),
        )
        problems = [
            counted_names(names, f"{singular if len(names) == 1 else plural} {complement}")
            for names, singular, plural, complement in kinds
            if names
        ]
        if self.unverified:
            problems.append(f"{self.path} has no recorded checksum for {truncated_list(self.unverified)}")
        return [*problems, *self.warnings]


@renamed_members(as_dict="to_dict")
@dataclass(frozen=True, repr=False)
class SaveReport(Brief):
    """The result of a save.

    Args:
        path: The directory.
        files: The weight files, and their index if there are several.
        tensors: Number of tensors; shared tensors count once.
        bytes: Total size of the tensors.
        checksums: Checksum of each weight file, as `ALGORITHM:HEX`.
        notes: Information for the user, one sentence each.
    """

    kind: ClassVar[str] = "save"  # kind of the HTML page

    path: Path
    files: tuple[str, ...]
    tensors: int
    bytes: int
    checksums: Mapping[str, str]
    notes: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return the report as plain data."""
        return {
            "path": str(self.path),
            "files": list(self.files),
            "tensors": self.tensors,
            "bytes": self.bytes,
            "checksums": dict(self.checksums),
            "notes": list(self.notes),
        }

    def _repr_html_(self) -> str:
        from ..pages import fragment

        return fragment(self.kind, self.to_dict())
