"""Recompute samples of a batch: this fails if the output is random or depends on other samples."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Hashable, Sequence
from typing import Any

import keras
import numpy as np

from keras_freeze.keras_internals.tensors import is_on_host
from keras_freeze.prefix_cache.batches import Batch
from keras_freeze.prefix_cache.compiled_prefix import Prefix
from keras_freeze.prefix_cache.feature_store import Store

# Samples of a batch that are computed again.
AUDITED_SAMPLES = 2


def is_own(prefix: Prefix, batch: Batch, features: Sequence[Any]) -> bool:
    """Tell whether some samples of a batch give the same features without the other samples.

    Where a batch of another size would have to be traced, they fill one of the same size.

    Args:
        prefix: Computes the features of a batch.
        batch: `Batch`.
        features: What was computed for it.
    """
    return _agrees(prefix, batch, _filling(prefix, batch), features)


class Audit:
    """Computes features again that were looked up, in the faster of two ways.

    A few samples take less time than a batch, but need a function traced for their number. So
    whole batches are computed until they have taken as long as tracing would.

    Args:
        prefix: Computes the features of a batch, and has done so.
    """

    def __init__(self, prefix: Prefix) -> None:
        self._prefix = prefix
        self._whole_s = 0.0
        self._kept: tuple[Batch, list[Hashable]] | None = None

    @property
    def has_sample(self) -> bool:
        """Bool, whether an augmentation of some samples is kept."""
        return self._kept is not None

    def keep(self, batch: Batch, keys: Sequence[Hashable]) -> None:
        """Keep an augmentation of some samples, the first time, to compute its features again."""
        if self._kept is None:
            picked = _filling(self._prefix, batch)
            self._kept = batch.picked(picked), [keys[n] for n in picked]

    def passes(self, batch: Batch, features: Sequence[Any], batch_s: float, store: Store) -> bool:
        """Tell whether features are still what the prefix returns.

        Args:
            batch: `Batch`.
            features: What was looked up for it.
            batch_s: Float, about how many seconds it takes to compute one.
            store: What was kept before, of samples that are augmented.
        """
        prefix = self._prefix
        if self._kept is not None:
            again, keys = dataclasses.replace(self._kept[0], state=batch.state), self._kept[1]
            rows = store.get(keys)
            return rows is None or _agrees(prefix, again, None, rows)
        to_trace_s = prefix.first_s - batch_s
        if not prefix.is_of_one_size(batch) or self._whole_s + batch_s > to_trace_s:
            return _agrees(prefix, batch, _last(batch), features)
        begun = time.perf_counter()
        agrees = _agrees(prefix, batch, None, features)
        self._whole_s += time.perf_counter() - begun
        return agrees


def _filling(prefix: Prefix, batch: Batch) -> list[int]:
    """Return the positions of the last samples, as often as the prefix needs samples."""
    picked = _last(batch)
    if prefix.is_of_one_size(batch):
        picked = [picked[n % len(picked)] for n in range(batch.rows)]
    return picked


def _last(batch: Batch) -> list[int]:
    """Return the positions of the last samples, reversed: none keeps its position in the batch."""
    return list(range(batch.rows))[::-1][: max(1, min(AUDITED_SAMPLES, batch.rows - 1))]


def _agrees(
    prefix: Prefix, batch: Batch, picked: Sequence[int] | None, features: Sequence[Any]
) -> bool:
    again = prefix(batch if picked is None else batch.picked(picked))
    rows = slice(None) if picked is None else picked
    return all(
        is_close(to_host(new), to_host(old)[rows], on_host=is_on_host(new))
        for new, old in zip(again, features, strict=True)
    )


def to_host(tensor: Any) -> np.ndarray:
    """Return a tensor of a backend as an array."""
    return np.asarray(keras.ops.convert_to_numpy(tensor))


def is_close(new: np.ndarray, old: np.ndarray, *, on_host: bool = True) -> bool:
    """Tell whether two results of the same computation agree, up to the order of sums.

    On a GPU, products of float32 may be of TF32, which has ten bits, in some sizes of batches and
    not in others.

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
    bits = {"float64": 52, "float32": 23 if on_host else 10, "float16": 10}.get(dtype, 7)
    left, right = new.astype("float64"), old.astype("float64")
    scale = float(np.max(np.abs(right), initial=0.0, where=np.isfinite(right)))
    tolerance = scale * min(0.05, 1000 * 2.0**-bits)
    return bool(np.allclose(left, right, rtol=0.0, atol=tolerance, equal_nan=True))
