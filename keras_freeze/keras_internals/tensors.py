"""Detect whether a backend's tensor has been written to."""

from __future__ import annotations

from typing import Any

import keras


def write_mark(value: Any) -> Any:
    """Return a value that differs after a write to a tensor; None on TensorFlow, where none does.

    Writes through torch's `.data` are not counted.
    """
    backend = keras.backend.backend()
    if backend == "torch":
        return value.data_ptr(), value._version
    return id(value) if backend == "jax" else None
