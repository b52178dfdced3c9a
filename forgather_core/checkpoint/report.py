"""What a load and a save did, in full: for people, for programs, as warnings."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ..filesystem.wording import tensors, truncated_list
from ..runtime.short_repr import Brief


@dataclass(frozen=True)
class MissingTensor:
    """A tensor of the model that the checkpoint does not have, and what may explain it."""

    name: str
    hint: str | None = None


@dataclass(frozen=True)
class OtherShape:
    """A tensor that has one shape in the checkpoint and another in the model."""

    name: str
    stored: tuple[int, ...]
    model: tuple[int, ...]


@dataclass(frozen=True, repr=False)
class LoadReport(Brief):
    """What was loaded. Buffers count as parameters do; names of one tensor are filled together.

    Args:
        path: The checkpoint.
        loaded: The names of the model that were filled.
        missing: Tensors of the model that are not in the checkpoint: they are as they were.
        unexpected: Tensors of the checkpoint for which the model has no place.
        other_shape: Tensors that were not loaded because of their shape.
        non_finite: Tensors that were loaded and hold NaN or an infinity. None: nobody has looked (`assign`).
        verified: Files whose SHA-256 was compared; None where that was not asked for.
        unverified: Files that were to be verified, and of which no SHA-256 is known.
        unused: Scales of activations in a quantized checkpoint, which dequantized weights do not need.
        notes: How the checkpoint was read, a sentence each: names that were matched, weights that were dequantized.
        warnings: What may be wrong beside the above, a sentence each.
        tensors: How many tensors of the model were filled. A tied one has several names and counts once, as in a save.
    """

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
        """Whether model and checkpoint have the same tensors."""
        return not (self.missing or self.unexpected or self.other_shape)

    def as_dict(self) -> dict[str, Any]:
        """As plain data."""
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

    def problems(self) -> list[str]:
        """A sentence for each kind of thing that was not as it should be; empty where all is well."""
        missing, other = [item.name for item in self.missing], [item.name for item in self.other_shape]
        kinds = (
            (missing, f"of the model missing from {self.path}"),
            (self.unexpected, f"of {self.path} not in the model"),
            (other, f"of another shape in {self.path}"),
            (self.non_finite or (), f"loaded from {self.path} with NaN or Inf"),
        )
        found = [f"{tensors(len(names))} {what}: {truncated_list(names)}" for names, what in kinds if names]
        if self.unverified:
            found.append(f"no checksum is recorded in {self.path} of {truncated_list(self.unverified)}")
        return [*found, *self.warnings]


@dataclass(frozen=True, repr=False)
class SaveReport(Brief):
    """What was saved.

    Args:
        path: The directory.
        files: The weight files, and their index if there are several.
        tensors: How many tensors, shared ones counted once.
        bytes: Their size.
        checksums: Checksum by weight file, as `ALGORITHM:HEX`.
        notes: What a user must know, a sentence each.
    """

    path: Path
    files: tuple[str, ...]
    tensors: int
    bytes: int
    checksums: Mapping[str, str]
    notes: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """As plain data."""
        return {
            "path": str(self.path),
            "files": list(self.files),
            "tensors": self.tensors,
            "bytes": self.bytes,
            "checksums": dict(self.checksums),
            "notes": list(self.notes),
        }
