"""The key/value cache by either of its names.

transformers calls it `past_key_values`, and from 5.24 on `cache`. Models take both, and answer by the name that the
installed release uses, so that its `generate` finds the cache: nobody would miss one that is lost, but the model would
see the last token alone.
"""

from transformers.cache_utils import Cache
from transformers.modeling_outputs import BaseModelOutputWithPast

CACHE = "cache" if "cache" in BaseModelOutputWithPast.__dataclass_fields__ else "past_key_values"


def the_cache(past_key_values: Cache | None, cache: Cache | None) -> Cache | None:
    """The one that was given.

    Raises:
        ValueError: Two different ones were.
    """
    if past_key_values is not None and cache is not None and past_key_values is not cache:
        raise ValueError("cache and past_key_values are two names of one thing: give one of them")
    return past_key_values if past_key_values is not None else cache
