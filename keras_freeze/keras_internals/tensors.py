"""Detect whether a tensor has been written to, or a variable has another's value."""

from __future__ import annotations

from typing import Any

import keras
from keras.src.backend.common.stateless_scope import get_stateless_scope, in_stateless_scope


def write_mark(value: Any) -> Any:
    """Return a value that differs after a write to a tensor; None on TensorFlow, where none does.

    Writes through torch's `.data` are not counted.
    """
    backend = keras.backend.backend()
    if backend == "torch":
        return value.data_ptr(), value._version
    return id(value) if backend == "jax" else None


def is_on_host(value: Any) -> bool:
    """Tell whether the host's processor holds a tensor, and so has computed it."""
    backend = keras.backend.backend()
    if backend == "torch":
        return value.device.type == "cpu"
    if backend == "jax":
        return all(device.platform == "cpu" for device in value.devices())
    return "GPU" not in value.device


def substituted_value(variable: keras.Variable) -> Any | None:
    """Return what a stateless scope has put in the place of a variable's own value, if anything."""
    return get_stateless_scope().get_current_value(variable) if in_stateless_scope() else None
