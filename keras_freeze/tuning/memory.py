"""Keep TensorFlow from piling up the training steps of trials, and from complaining of them.

Keras sums gradients over replicas, even where there is but one, with an operation that has a
gradient function of its own. TensorFlow's registry of these keeps the graph of the step alive, and
with it all variables: a model and its optimizer for every training (tensorflow#97697, #80895).
Several short trainings look to it like one function that is traced again and again.
"""

from __future__ import annotations

import contextlib
import logging
import types
from collections.abc import Iterator
from typing import Any

import keras

# A cell of a variable that has no value, which can't be asked for it.
_UNASSIGNED = types.CellType()


@contextlib.contextmanager
def let_go() -> Iterator[None]:
    """Let go of the training steps that are traced inside, once that is over.

    TensorFlow does not warn of their number. They go on working for whoever else holds them; what
    can no longer be done with one is to differentiate through it.
    """
    known = _gradient_functions()
    before = set(known)
    logger = logging.getLogger("tensorflow")
    logger.addFilter(_is_worth_saying)
    try:
        yield
    finally:
        logger.removeFilter(_is_worth_saying)
        for name in known.keys() - before:
            if _is_of_a_sum(known[name]["type"]):
                del known[name]


def _is_worth_saying(record: logging.LogRecord) -> bool:
    return "triggered tf.function retracing" not in record.getMessage()


def _gradient_functions() -> dict[str, Any]:
    if keras.backend.backend() != "tensorflow":
        return {}
    from tensorflow.python.framework import ops  # the registry is not public

    registry = getattr(ops, "gradient_registry", None)
    return getattr(registry, "_registry", {})


def _is_of_a_sum(function: Any, depth: int = 3) -> bool:
    """Tell whether a gradient function is that of a sum over replicas: another may be needed.

    It is called by functions of TensorFlow that wrap it, and those are what is registered.
    """
    if ".all_reduce." in getattr(function, "__qualname__", ""):
        return True
    cells = getattr(function, "__closure__", None) or ()
    within = [cell.cell_contents for cell in cells if cell != _UNASSIGNED] if depth else []
    return any(_is_of_a_sum(one, depth - 1) for one in within)
