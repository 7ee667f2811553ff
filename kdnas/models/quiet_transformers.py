"""transformers without its warnings and bars, for as long as kdnas calls it. Opens nothing itself."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from kdnas.data import hub


@contextlib.contextmanager
def hushed() -> Iterator[None]:
    """Inside, transformers gives no warnings and draws no bars; afterwards it does as the program around it wants."""
    hub.quiet()
    from transformers.utils import logging

    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()
