"""Release the steps that TensorFlow traces in a search, and suppress its warning about them.

Keras sums gradients over replicas, even where there is only one, with an operation that has a
gradient function of its own. TensorFlow's registry of these keeps the graph of the step alive, and
with it all variables: a model and its optimizer for every training (tensorflow#97697, #80895).
Several short trainings look to it like one function that is traced again and again.
"""

from __future__ import annotations

import contextlib
import types
from collections.abc import Iterator
from typing import Any

from keras_freeze.keras_internals.gradient_registry import gradient_functions
from keras_freeze.keras_internals.retracing import retracing_is_expected

# A cell of a variable without a value, whose contents can't be read.
_UNASSIGNED = types.CellType()


@contextlib.contextmanager
def release_traced_steps() -> Iterator[None]:
    """Release at the end the training steps that were traced inside.

    TensorFlow does not warn of their number. They keep working where they are still referenced, but
    can no longer be differentiated.
    """
    registry = gradient_functions()
    before = set(registry)
    try:
        with retracing_is_expected():
            yield
    finally:
        for name in registry.keys() - before:
            if _is_of_a_sum(registry[name]["type"]):
                del registry[name]


def _is_of_a_sum(function: Any, depth: int = 3) -> bool:
    """Tell whether a gradient function is that of a sum over replicas: others may be needed.

    Functions of TensorFlow wrap it, and those are what is registered.
    """
    if ".all_reduce." in getattr(function, "__qualname__", ""):
        return True
    if not depth:
        return False
    for cell in getattr(function, "__closure__", None) or ():
        if cell != _UNASSIGNED and _is_of_a_sum(cell.cell_contents, depth - 1):
            return True
    return False
