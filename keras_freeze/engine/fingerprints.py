"""Fingerprint weights: 128 bits that differ as soon as one bit of a weight does."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import xxhash

from keras_freeze.keras_internals.host_arrays import parts_on_host


def fingerprint(variable: keras.Variable) -> bytes:
    """Return a hash of the bytes of a variable, of any dtype and shape.

    The bytes are read where they are if that is the host. Of a variable that is spread over
    several hosts, this host's part is taken.

    Args:
        variable: `keras.Variable`.

    Returns:
        Bytes, 16 of them.

    Example:
        >>> counter = keras.Variable(0, dtype="int32")
        >>> before = fingerprint(counter)
        >>> _ = counter.assign(0)
        >>> fingerprint(counter) == before
        True
    """
    return fingerprint_of(variable.value)


def fingerprint_of(value: Any) -> bytes:
    """Return a hash of the bytes of a backend's value, as `fingerprint` of a variable."""
    digest = xxhash.xxh3_128()
    for array in parts_on_host(value):
        digest.update(array.ravel().view(np.uint8).data)
    return digest.digest()
