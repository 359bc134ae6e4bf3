"""What fairseq and torch tell on the terminal that is of no use to those who run our commands."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def quiet() -> Iterator[None]:
    """Without fairseq's lines about its options and missing packages, and torch's about how fairseq makes weight norm.

    Warnings and errors of fairseq's are still told.
    """
    logger = logging.getLogger("fairseq")
    level = logger.level
    logger.setLevel(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            yield
    finally:
        logger.setLevel(level)
