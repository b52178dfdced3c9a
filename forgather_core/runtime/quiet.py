"""Nothing of what transformers logs and draws, where its words would be about something that is meant so."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """Errors alone are logged, and no bars are drawn; afterwards as before."""
    from transformers.utils import logging

    before, drawing = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(before)
        if drawing:
            logging.enable_progress_bar()
