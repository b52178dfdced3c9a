"""The commands of `forgather checkpoint` as functions."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from forgather_core.options.plain_options import ConvertOptions, InspectOptions
from forgather_core.runtime.quiet import import_tqdm

from .listings import CheckpointInfo
from .progress import SILENT, Progress
from .public import public

if TYPE_CHECKING:
    from forgather_core.checkpoint import SaveReport


@public(InspectOptions)
def inspect_checkpoint(
    path: str | os.PathLike[str], *, verify_checksums: bool = False, progress: Progress = SILENT
) -> CheckpointInfo:
    """Validate the headers and the index of a checkpoint, and describe its contents.

    Args:
        path: A directory, a weight file, an index, or a Hub id.
        verify_checksums: Compare every file with its recorded checksum.
        progress: Callbacks; `verifying` is used.

    Raises:
        CheckpointError: There is no checkpoint, or it is damaged.
    """
    import_tqdm()
    from forgather_core.checkpoint import inspect_checkpoint as run

    return CheckpointInfo(run(path, verify_checksums=verify_checksums, on_progress=progress.verifying))


@public(ConvertOptions)
def convert_checkpoint(
    source: str | os.PathLike[str],
    target: str | os.PathLike[str],
    *,
    format: str | None = None,
    dtype: str | None = None,
    keep: str | None = None,
    max_shard_size: int | str = "5GB",
    verify_checksums: bool = False,
    progress: Progress = SILENT,
) -> SaveReport:
    """Convert a checkpoint to another format, dtype or shard size, tensor by tensor.

    Args:
        source: A directory, a weight file, an index, or a Hub id.
        target: A new directory, or the source itself.
        format: `safetensors` or `bin`; None keeps the source's format, if it is one of them.
        dtype: Dtype that replaces the most common one; None keeps all dtypes.
        keep: Regular expression for the names of tensors that keep their dtype.
        max_shard_size: Bytes, or a size such as "500MB".
        verify_checksums: Compare every file with its recorded checksum first.
        progress: Callbacks; `verifying` and `saving` are used.

    Raises:
        CheckpointError: The source is damaged, or the target cannot be written.
    """
    import_tqdm()
    from forgather_core.checkpoint import convert_checkpoint as run

    settings = {"format": format, "dtype": dtype, "keep": keep, "max_shard_size": max_shard_size}
    return run(
        source,
        target,
        verify_checksums=verify_checksums,
        on_verify=progress.verifying,
        on_progress=progress.saving,
        **settings,  # type: ignore[arg-type]
    )
