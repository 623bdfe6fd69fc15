"""Compute some samples again, alone, and compare: what chance or mixing between samples fails."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np

from keras_freeze.prefix_cache.samples import Batch

# Samples of a batch that are computed again.
AUDITED = 2


def agrees(
    compute: Callable[[Batch], Sequence[Any]], batch: Batch, features: Sequence[Any]
) -> bool:
    """Tell whether some samples of a batch come out again as they did, without their neighbours.

    Args:
        compute: Computes the features of a batch.
        batch: `Batch`.
        features: What was computed, or looked up, for it.
    """
    picked = list(range(batch.rows))[::-1][: max(1, min(AUDITED, batch.rows - 1))]
    again = compute(batch.picked(picked))
    return all(
        is_close(to_host(new), to_host(old)[picked])
        for new, old in zip(again, features, strict=True)
    )


def to_host(tensor: Any) -> np.ndarray:
    """Return a tensor of a backend as an array."""
    return np.asarray(keras.ops.convert_to_numpy(tensor))


def is_close(new: np.ndarray, old: np.ndarray) -> bool:
    """Tell whether two results of the same computation agree, up to the order of sums.

    Example:
        >>> one = np.ones(3, "float32")
        >>> is_close(one * 1.00001, one), is_close(one * 1.01, one)
        (True, False)
    """
    if new.shape != old.shape:
        return False
    dtype = keras.backend.standardize_dtype(new.dtype)
    if not keras.backend.is_float_dtype(dtype):
        return bool((new == old).all())
    bits = {"float64": 52, "float32": 23, "float16": 10}.get(dtype, 7)
    left, right = new.astype("float64"), old.astype("float64")
    scale = float(np.max(np.abs(right), initial=0.0, where=np.isfinite(right)))
    tolerance = scale * min(0.05, 1000 * 2.0**-bits)
    return bool(np.allclose(left, right, rtol=0.0, atol=tolerance, equal_nan=True))
