"""Recompute samples of a batch: this fails if the output is random or depends on other samples."""

from __future__ import annotations

import dataclasses
from collections.abc import Hashable, Sequence
from typing import Any

import keras
import numpy as np

from keras_freeze.features import Store
from keras_freeze.keras_internals.tensors import is_on_host
from keras_freeze.prefix_cache.batches import Batch
from keras_freeze.prefix_cache.compiled_prefix import Prefix

# Samples of a batch that are computed again.
AUDITED_SAMPLES = 2


class Audit:
    """Computes features again that were looked up.

    The first time it is some samples without their neighbours, which shows whether these matter.
    Later on it is the whole batch, where another size would have to be traced.

    Args:
        prefix: Computes the features of a batch.
    """

    def __init__(self, prefix: Prefix) -> None:
        self._prefix = prefix
        self._kept: tuple[Batch, list[Hashable]] | None = None
        #: Bool, whether it has been passed.
        self.is_passed = False
        #: Bool, whether that was with a batch in which samples could have mattered to each other.
        self.is_telling = False
        #: What a layer raised that takes no other number of samples; None if none did.
        self.error: Exception | None = None

    @property
    def has_sample(self) -> bool:
        """Bool, whether an augmentation of some samples is kept."""
        return self._kept is not None

    @staticmethod
    def tells(batch: Batch) -> bool:
        """Tell whether samples of a batch have others than their usual neighbours in an audit."""
        return len(set(batch.keys)) > AUDITED_SAMPLES

    def keep(self, batch: Batch, keys: Sequence[Hashable]) -> None:
        """Keep an augmentation of some samples, the first time, to compute its features again."""
        if self._kept is None:
            picked = self._last(batch)
            self._kept = batch.picked(picked), [keys[n] for n in picked]

    def passes(self, batch: Batch, features: Sequence[Any], store: Store) -> bool:
        """Tell whether features are still what the prefix returns.

        Args:
            batch: `Batch`.
            features: What was looked up for it.
            store: What was kept before, of samples that are augmented.
        """
        was_telling = self.is_telling
        self.is_telling = was_telling or self.tells(batch)
        if self._kept is not None:
            again, keys = dataclasses.replace(self._kept[0], state=batch.state), self._kept[1]
            rows = store.get(keys)
            self.is_passed = rows is None or _agree(self._prefix(again), rows)
        elif self.is_passed and was_telling and self._prefix.is_of_one_size(batch):
            self.is_passed = _agree(self._prefix(batch), features)
        else:
            self.is_passed = self._last_agree(batch, features)
        return self.is_passed

    def _last_agree(self, batch: Batch, features: Sequence[Any]) -> bool:
        picked = self._last(batch)
        few, rows = batch.picked(picked), [to_host(array)[picked] for array in features]
        try:
            if self._prefix.is_to_be_traced(batch):
                return _agree(self._prefix.without_tracing(few), rows)
            return _agree(self._prefix(few), rows)
        except Exception as error:
            self.error = error
            return False

    def _last(self, batch: Batch) -> list[int]:
        """Return the positions of the last samples, as often as the prefix needs samples.

        They are reversed: the first of them, at least, does not keep its position in the batch.
        """
        picked = list(range(batch.rows))[::-1][: max(1, min(AUDITED_SAMPLES, batch.rows - 1))]
        prefix = self._prefix
        if prefix.is_of_one_size(batch) and not prefix.is_to_be_traced(batch):
            picked = [picked[n % len(picked)] for n in range(batch.rows)]
        return picked


def _agree(again: Sequence[Any], features: Sequence[Any]) -> bool:
    return all(
        is_close(to_host(new), to_host(old), dtype=new.dtype, on_host=is_on_host(new))
        for new, old in zip(again, features, strict=True)
    )


def to_host(tensor: Any) -> np.ndarray:
    """Return a tensor of a backend as an array."""
    return np.asarray(keras.ops.convert_to_numpy(tensor))


def is_close(new: np.ndarray, old: np.ndarray, *, dtype: Any = None, on_host: bool = True) -> bool:
    """Tell whether two results of the same computation agree, up to the order of sums.

    Args:
        new: An array.
        old: An array.
        dtype: That of the tensors, where arrays have another (bfloat16 of torch). Defaults to that
            of `new`.
        on_host: Bool, whether the host's processor has computed them. On a GPU, products of
            float32 may be of TF32, which has ten bits, in some sizes of batches and not in others.

    Example:
        >>> one = np.ones(3, "float32")
        >>> is_close(one * 1.00001, one), is_close(one * 1.01, one)
        (True, False)
    """
    if new.shape != old.shape:
        return False
    dtype = keras.backend.standardize_dtype(dtype or new.dtype)
    if not keras.backend.is_float_dtype(dtype):
        return bool((new == old).all())
    bits = {"float64": 52, "float32": 23 if on_host else 10, "float16": 10}.get(dtype, 7)
    left, right = new.astype("float64"), old.astype("float64")
    scale = float(np.max(np.abs(right), initial=0.0, where=np.isfinite(right)))
    tolerance = scale * min(0.05, 1000 * 2.0**-bits)
    return bool(np.allclose(left, right, rtol=0.0, atol=tolerance, equal_nan=True))
