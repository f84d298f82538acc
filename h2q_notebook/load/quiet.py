"""transformers without its bars, logs and warnings, for as long as a block lasts.

All three are settings of the whole process, so those who change them take turns here.
"""

from __future__ import annotations

import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

__all__ = ["quiet"]

_TURNS = threading.RLock()


@contextmanager
def quiet() -> Iterator[None]:
    """Errors only, no progress bars, no warnings; everything as before afterwards."""
    from transformers.utils import logging as transformers_logging

    logging: Any = transformers_logging
    with _TURNS, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        bars = logging.is_progress_bar_enabled()
        level = logging.get_verbosity()
        logging.disable_progress_bar()
        logging.set_verbosity_error()
        try:
            yield
        finally:
            logging.set_verbosity(level)
            if bars:
                logging.enable_progress_bar()
