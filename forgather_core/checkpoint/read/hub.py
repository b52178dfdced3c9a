"""A checkpoint in a repository of the hub: its weight files are fetched into the cache, or found there when offline."""

from __future__ import annotations

import os
import re
from pathlib import Path

from ...errors import CheckpointError
from ...filesystem.wording import printable_name
from ..formats.layout import ENTRIES, Index

_TIMEOUT = 10.0  # seconds
_HUB_ID = re.compile(r"[\w][\w.-]*/[\w][\w.-]*")


def is_hub_id(text: str) -> bool:
    """Whether a text means a repository, `owner/name`: nothing is there, nor a directory called like the owner."""
    path = Path(text)
    return _HUB_ID.fullmatch(text) is not None and not os.path.lexists(path) and not path.parent.is_dir()


def snapshot(repository: str) -> Path:
    """The directory of the cache in which the weights of a repository lie; they are downloaded if need be.

    Raises:
        CheckpointError: There is no such directory here and no such repository, or it cannot be reached.
    """
    from huggingface_hub import HfApi, hf_hub_download

    try:
        # One question, with a limit: a misspelt path is not to wait for a network that is not there.
        names = {file.rfilename for file in HfApi().model_info(repository, timeout=_TIMEOUT).siblings or ()}
    except Exception as error:  # of the network, of permission, of a name that there is not
        return _cached(repository, next(iter(str(error).splitlines()), type(error).__name__))
    entry = next((entry for entry in ENTRIES if entry in names), None)
    if entry is None:
        raise CheckpointError(f"the hub's {repository} has none of {', '.join(ENTRIES)}")
    try:
        found = Path(hf_hub_download(repository, entry))
        for shard in Index.read(found).files if entry.endswith(".json") else ():
            hf_hub_download(repository, shard)
    except CheckpointError:
        raise
    except Exception as error:
        raise CheckpointError(
            f"{repository} cannot be fetched from the hub: {printable_name(str(error) or error)}"
        ) from None
    return found.parent


def _cached(repository: str, reason: str) -> Path:
    """The directory of the cache, if the weights are in it."""
    from huggingface_hub import try_to_load_from_cache

    for entry in ENTRIES:
        found = try_to_load_from_cache(repository, entry)
        if isinstance(found, str):
            return Path(found).parent
    raise CheckpointError(
        f"there is no checkpoint '{repository}': no such directory is here, nor is it in the hub's cache, and the hub "
        f"says: {printable_name(reason)}"
    )
