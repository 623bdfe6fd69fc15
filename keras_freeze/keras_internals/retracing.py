"""TensorFlow's warning that a function is traced again and again, which transitions cause."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator


@contextlib.contextmanager
def retracing_is_expected() -> Iterator[None]:
    """Suppress the warning temporarily: each transition makes a new train step on purpose."""

    def is_about_something_else(record: logging.LogRecord) -> bool:
        return "triggered tf.function retracing" not in record.getMessage()

    logger = logging.getLogger("tensorflow")
    logger.addFilter(is_about_something_else)
    try:
        yield
    finally:
        logger.removeFilter(is_about_something_else)
