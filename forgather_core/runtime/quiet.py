"""Silence logging, progress bars and warnings of libraries."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """Log only errors of transformers and show no progress bars within the block."""
    from transformers.utils import logging

    before, progress_bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(before)
        if progress_bars:
            logging.enable_progress_bar()


def import_tqdm() -> None:
    """Import tqdm, which transformers uses, without its warning about missing widgets in a notebook."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="IProgress not found")
        import tqdm.auto  # noqa: F401
