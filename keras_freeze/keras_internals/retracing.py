"""TensorFlow's warning that a function is traced again and again, which transitions cause."""

from __future__ import annotations

import contextlib
import functools
import logging
from collections.abc import Iterator

from keras_freeze.keras_internals.callback_list import is_in_fit_with


@contextlib.contextmanager
def retracing_is_expected() -> Iterator[None]:
    """Suppress the warning temporarily."""
    logger = logging.getLogger("tensorflow")
    logger.addFilter(_is_about_something_else)
    try:
        yield
    finally:
        logger.removeFilter(_is_about_something_else)


def expect_retracing_in_fits_with(kind: type) -> None:
    """Suppress the warning in each fit that has a callback of this class, from now on.

    Whether one is running is asked when TensorFlow warns, since a fit may end without a word to its
    callbacks.
    """
    logging.getLogger("tensorflow").addFilter(functools.partial(_is_worth_saying, kind))


def _is_worth_saying(kind: type, record: logging.LogRecord) -> bool:
    return _is_about_something_else(record) or not is_in_fit_with(kind)


def _is_about_something_else(record: logging.LogRecord) -> bool:
    return "triggered tf.function retracing" not in str(record.msg)
