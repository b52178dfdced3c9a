"""Silence logging, progress bars and warnings of libraries."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from logging import ERROR, getLogger


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """Log only errors of transformers and of the code of model directories, and show no progress bars."""
    from transformers.utils import logging

    before, progress_bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    code = getLogger("transformers_modules")  # the package in which transformers imports that code
    level = code.level
    code.setLevel(ERROR)
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(before)
        code.setLevel(level)
        if progress_bars:
            logging.enable_progress_bar()


def import_tqdm() -> None:
    """Import tqdm, which transformers uses, without its warning about missing widgets in a notebook."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="IProgress not found")
        import tqdm.auto  # noqa: F401
