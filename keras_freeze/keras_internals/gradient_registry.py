"""TensorFlow's registry of gradient functions, which keeps the graphs of traced steps alive."""

from __future__ import annotations

import functools
import warnings
from typing import Any

import keras

from keras_freeze.keras_internals.required import TESTED


@functools.cache
def gradient_functions() -> dict[str, Any]:
    """Return the registered gradient functions by name, each as `{"type": function, ...}`.

    The dict is the registry itself: what is deleted from it is released. It is empty on backends
    other than TensorFlow, and, after one warning, where TensorFlow has no such registry.
    """
    if keras.backend.backend() != "tensorflow":
        return {}
    import tensorflow as tf
    from tensorflow.python.framework import ops  # the registry is not public

    try:
        found: dict[str, Any] = ops.gradient_registry._registry
    except AttributeError:
        warnings.warn(
            "The trainings of a search stay in memory until the process ends: TensorFlow "
            f"{tf.__version__} has no registry of gradient functions where keras_freeze looks for "
            f"it. Tested with TensorFlow {TESTED['tensorflow']}.",
            stacklevel=2,
        )
        return {}
    return found
