"""Find a checkpoint in a Hub repository: download its weight files into the cache, or use the cache when offline."""

from __future__ import annotations

import os
import re
from pathlib import Path

from ...errors import CheckpointError
from ...filesystem.printable import printable_name
from ..formats.layout import ENTRIES, Index

_TIMEOUT = 10.0  # seconds
_CHECK_NAME = "check the name and the connection"  # a hint
_HUB_ID = re.compile(r"[\w][\w.-]*/[\w][\w.-]*")


def is_hub_id(text: str) -> bool:
    """Return whether a text is a Hub repository `owner/name` and not a path: neither that path nor `owner` exists."""
    path = Path(text)
    return _HUB_ID.fullmatch(text) is not None and not os.path.lexists(path) and not path.parent.is_dir()


def snapshot(repository: str) -> Path:
    """Return the cache directory that holds the weights of a repository, downloading them if necessary.

    Raises:
        CheckpointError: The repository does not exist, has no weights, or cannot be reached.
    """
    from huggingface_hub import HfApi, hf_hub_download

    try:
        # One request, with a timeout: a misspelt path must not wait for an unreachable network.
        names = {file.rfilename for file in HfApi().model_info(repository, timeout=_TIMEOUT).siblings or ()}
    except Exception as error:  # network, permission, unknown repository
        return _cached(repository, next(iter(str(error).splitlines()), type(error).__name__))
    entry = next((entry for entry in ENTRIES if entry in names), None)
    if entry is None:
        problem = f"contains no weights on the Hub (none of {', '.join(ENTRIES)})"
        raise CheckpointError(problem, file=repository, hint="choose another repository")
    try:
        found = Path(hf_hub_download(repository, entry))
        for shard in Index.read(found).files if entry.endswith(".json") else ():
            hf_hub_download(repository, shard)
    except CheckpointError:
        raise
    except Exception as error:
        problem = f"cannot be downloaded from the Hub: {printable_name(str(error) or error)}"
        raise CheckpointError(problem, file=repository, hint=_CHECK_NAME) from None
    return found.parent


def _cached(repository: str, reason: str) -> Path:
    """Return the cache directory of a repository if it contains weights."""
    from huggingface_hub import try_to_load_from_cache

    for entry in ENTRIES:
        found = try_to_load_from_cache(repository, entry)
        if isinstance(found, str):
            return Path(found).parent
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        problem = "is neither a local directory nor in the Hub cache, and offline mode is on"
        raise CheckpointError(problem, file=repository, hint="unset HF_HUB_OFFLINE, or name a local directory")
    problem = f"is neither a local directory nor in the Hub cache, and the Hub reports: {printable_name(reason)}"
    raise CheckpointError(problem, file=repository, hint=_CHECK_NAME)
