"""A checkpoint in a repository of the hub: its weight files are fetched into the cache, or found there when offline."""

from __future__ import annotations

import re
from pathlib import Path

from ..errors import CheckpointError
from .layout import ENTRIES, Index

_HUB_ID = re.compile(r"[\w][\w.-]*/[\w][\w.-]*")


def is_hub_id(text: str) -> bool:
    """Whether a text can be the name of a repository: `owner/name`."""
    return _HUB_ID.fullmatch(text) is not None


def snapshot(repository: str) -> Path:
    """The directory of the cache in which the weights of a repository lie; they are downloaded if need be.

    Raises:
        CheckpointError: There is no such directory here and no such repository, or it cannot be reached.
    """
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    reason = f"the hub's repository has none of {', '.join(ENTRIES)}"
    for entry in ENTRIES:
        try:
            found = Path(hf_hub_download(repository, entry))
            for shard in Index.read(found).files if entry.endswith(".json") else ():
                hf_hub_download(repository, shard)
        except LocalEntryNotFoundError:
            reason = "no such directory is here, nor such a repository in the hub's cache, and the hub is out of reach"
        except EntryNotFoundError:
            continue
        except CheckpointError:
            raise
        except Exception as error:  # of the network, of permission, of a name that there is not
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        else:
            return found.parent
    raise CheckpointError(f"there is no checkpoint '{repository}': {reason}")
