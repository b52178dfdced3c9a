"""Building blocks of models. Each module here may be exported: it imports torch, transformers and its siblings only."""

import sys
from types import ModuleType
from typing import Any

from ..deprecated import keep_old_names

_OLD_NAMES = {
    "caches": {"the_cache": "resolve_cache"},
    "linear_cross_entropy": {"MOST_PARTS": "MAX_CHUNKS"},
    "rope": {"RopeNumbers": "RopeConfig", "SCALED_FROM_A_LENGTH": "USES_ORIGINAL_LENGTH"},
    "table_init": {"initialise_module": "initialize_module"},
    "weight_pieces": {"FEW": "MIN_THREADED"},
}


class _Parts(ModuleType):
    """This package. Python sets each of its modules as an attribute when it is imported."""

    def __setattr__(self, name: str, value: Any) -> None:
        super().__setattr__(name, value)
        if isinstance(value, ModuleType) and name in _OLD_NAMES:  # not in the modules, which are exported
            keep_old_names(value.__name__, _OLD_NAMES[name])


sys.modules[__name__].__class__ = _Parts
