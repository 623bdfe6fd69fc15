"""Fingerprint weights: 128 bits that differ as soon as one bit of a weight does."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import keras
import numpy as np
import xxhash


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
    for array in _on_host(value):
        digest.update(array.ravel().view(np.uint8).data)
    return digest.digest()


def _on_host(value: Any) -> Iterator[np.ndarray]:
    """Yield what a backend's value consists of, without a copy where there is a way."""
    if keras.backend.backend() == "torch":
        import torch

        # As bytes, for numpy has no name for some of torch's dtypes.
        yield value.cpu().flatten().view(torch.uint8).numpy()
    elif getattr(value, "is_fully_addressable", True):
        yield np.asarray(keras.ops.convert_to_tensor(value))
    else:
        yield from (np.asarray(shard.data) for shard in value.addressable_shards)
