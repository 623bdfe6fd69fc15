"""Keep rows of tensors by a key in the memory of the device that has computed them."""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from typing import Any

import keras
import numpy as np

from keras_freeze.features.store import Budget, RowStore


class DeviceStore:
    """Rows of one or several tensors, found again by a key.

    Rows are put as they come, in blocks. Before any are looked up, blocks are joined so that each
    has at least twice as many rows as the next: then there are few, and a row has seldom been
    copied.

    Args:
        budget: `Budget`, the memory of the device to use.
        beyond: `RowStore` for further rows, and for those of another shape or dtype than the first.

    Example:
        >>> store = DeviceStore(Budget(2**20), RowStore())
        >>> store.put(["a", "b"], [keras.ops.convert_to_tensor([[1.0, 2.0], [3.0, 4.0]])])
        >>> keras.ops.convert_to_numpy(store.get(["b", "a"])[0]).tolist()
        [[3.0, 4.0], [1.0, 2.0]]
    """

    is_kept = False
    keeps_tensors = True

    def __init__(self, budget: Budget, beyond: RowStore) -> None:
        self.budget = budget
        self._beyond = beyond
        self._signature: list[tuple[tuple[int, ...], str]] = []
        self._row_bytes = 0
        self._numbers: dict[Hashable, int] = {}
        self._blocks: list[list[Any]] = []
        self._joined = 0

    def __len__(self) -> int:
        return len(self._numbers) + len(self._beyond)

    @property
    def nbytes(self) -> int:
        """Int, bytes that are kept, on the device and beyond."""
        return len(self._numbers) * self._row_bytes + self._beyond.nbytes

    def hits(self, keys: Sequence[Hashable]) -> int:
        """Return for how many of these keys there is a row."""
        return sum(key in self._numbers or bool(self._beyond.hits([key])) for key in keys)

    def get(self, keys: Sequence[Hashable]) -> list[Any] | None:
        """Return the rows of these keys, stacked; None if one is missing or of other shape."""
        numbers = np.array([self._numbers.get(key, -1) for key in keys])
        elsewhere = np.flatnonzero(numbers < 0).tolist()
        blocks = self._joined_blocks()
        if elsewhere:
            rows = self._beyond.get([keys[n] for n in elsewhere])
            if rows is None or len(elsewhere) == len(keys):
                return rows
            # Not by dtypes, since NumPy has no bfloat16 of torch's.
            if [row.shape[1:] for row in rows] != [shape for shape, _ in self._signature]:
                return None
            numbers[elsewhere] = len(self._numbers) + np.arange(len(elsewhere))
            like = [tensor.dtype for tensor in blocks[0]]
            pairs = zip(rows, like, strict=True)
            blocks = [*blocks, [keras.ops.convert_to_tensor(row, dtype) for row, dtype in pairs]]
        return _taken(blocks, numbers)

    def put(self, keys: Sequence[Hashable], tensors: Sequence[Any]) -> None:
        """Keep a row for each of these keys that has none yet.

        Raises:
            OSError: if a file can't be written.
        """
        first = {key: n for n, key in reversed([*enumerate(keys)])}
        new = sorted(n for key, n in first.items() if not self.hits([key]))
        if not new:
            return
        signature = [
            (tuple(tensor.shape[1:]), keras.backend.standardize_dtype(tensor.dtype))
            for tensor in tensors
        ]
        if not self._numbers:
            self._signature = signature
            self._row_bytes = sum(map(_row_bytes, tensors))
        fits = self.budget.rows(max(1, self._row_bytes)) if signature == self._signature else 0
        here, beyond = new[:fits], new[fits:]
        if here:
            self._blocks.append([_rows(tensor, here) for tensor in tensors])
            self._numbers |= {keys[n]: len(self._numbers) + i for i, n in enumerate(here)}
            self.budget.reserved += len(here) * self._row_bytes
        if beyond:
            arrays = [keras.ops.convert_to_numpy(_rows(tensor, beyond)) for tensor in tensors]
            self._beyond.put([keys[n] for n in beyond], arrays)

    def withdraw(self) -> None:
        """Remove all rows: who has put which isn't known."""
        self.clear()

    def clear(self) -> None:
        """Remove all rows and release their memory."""
        self.budget.reserved -= len(self._numbers) * self._row_bytes
        self._numbers.clear()
        self._blocks, self._joined = [], 0
        self._beyond.clear()

    def _joined_blocks(self) -> list[list[Any]]:
        new = self._blocks[self._joined :]
        if len(new) > 1:
            self._blocks[self._joined :] = [_concatenated(new)]
        while len(self._blocks) > 1 and _size(self._blocks[-2]) < 2 * _size(self._blocks[-1]):
            self._blocks[-2:] = [_concatenated(self._blocks[-2:])]
        self._joined = len(self._blocks)
        return self._blocks


def _taken(blocks: Sequence[list[Any]], numbers: np.ndarray) -> list[Any]:
    """Return rows by their numbers, counted through the blocks.

    Of every block all rows are taken, some in vain: so what is computed has always the same shape,
    and JAX compiles it once.
    """
    found: list[Any] = []
    first = 0
    for block in blocks:
        end = first + _size(block)
        is_here = (first <= numbers) & (numbers < end)
        if is_here.any():
            rows = np.where(is_here, numbers - first, 0).astype("int32")
            taken = [keras.ops.take(tensor, rows, axis=0) for tensor in block]
            if found:
                taken = [_chosen(is_here, *pair) for pair in zip(taken, found, strict=True)]
            found = taken
        first = end
    return found


def _chosen(is_first: np.ndarray, one: Any, other: Any) -> Any:
    mask = keras.ops.convert_to_tensor(is_first.reshape(-1, *[1] * (len(one.shape) - 1)))
    return keras.ops.where(mask, one, other)


def _rows(tensor: Any, rows: Sequence[int]) -> Any:
    return tensor if len(rows) == tensor.shape[0] else keras.ops.take(tensor, rows, axis=0)


def _concatenated(blocks: Sequence[list[Any]]) -> list[Any]:
    return [keras.ops.concatenate(tensors) for tensors in zip(*blocks, strict=True)]


def _size(block: list[Any]) -> int:
    return int(block[0].shape[0])


def _row_bytes(tensor: Any) -> int:
    # Keras registers the dtypes that NumPy lacks, such as bfloat16.
    itemsize = np.dtype(keras.backend.standardize_dtype(tensor.dtype)).itemsize
    return math.prod(tensor.shape[1:]) * itemsize
