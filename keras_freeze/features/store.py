"""Keep rows of arrays by a key: in memory, and beyond a limit in files that are mapped."""

from __future__ import annotations

import math
import os
import tempfile
from collections.abc import Hashable, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeAlias

import numpy as np
import psutil

# A block of rows is of about this size, so that little reserved memory stays unused.
BLOCK_BYTES = 16 * 2**20
# By default, the free memory divided by this is the most that is used.
MEMORY_DIVISOR = 4

Signature: TypeAlias = tuple[tuple[tuple[int, ...], Any], ...]


class Store(Protocol):
    """Rows of one or several arrays, found again by a key.

    Attributes:
        is_kept: Bool, whether other processes use it too.
        keeps_tensors: Bool, whether it takes and returns tensors of the backend, not arrays.
    """

    is_kept: bool
    keeps_tensors: bool

    @property
    def nbytes(self) -> int:
        """Int, bytes that are kept."""

    def hits(self, keys: Sequence[Any]) -> int:
        """Return for how many of these keys there is a row."""

    def get(self, keys: Sequence[Any]) -> list[Any] | None:
        """Return the rows of these keys, stacked; None if one is missing or of other shape."""

    def put(self, keys: Sequence[Any], arrays: Sequence[Any]) -> None:
        """Keep a row for each of these keys that has none yet."""

    def withdraw(self) -> None:
        """Remove at least what was put since the fit began."""

    def clear(self) -> None:
        """Remove all rows."""


class Budget:
    """The memory that several stores may use together.

    Args:
        max_bytes: Int. Defaults to a quarter of the memory that is free when it is first asked.
    """

    def __init__(self, max_bytes: int | None = None) -> None:
        self.max_bytes = max_bytes
        self.reserved = 0

    def rows(self, row_bytes: int) -> int:
        """Return how many rows of this size there is room for."""
        if self.max_bytes is None:
            self.max_bytes = free_memory() // MEMORY_DIVISOR
        return max(0, self.max_bytes - self.reserved) // row_bytes


class RowStore:
    """Rows of one or several arrays, found again by a key.

    Args:
        budget: `Budget`, the memory to use; further rows go to files. Defaults to one of its own.
        directory: Folder for these files. They have no name there and are gone with the store.
            Defaults to the system's folder for temporary files.

    Example:
        >>> store = RowStore()
        >>> store.put(["a", "b"], [np.array([[1.0, 2.0], [3.0, 4.0]])])
        >>> store.get(["b", "a"])[0].tolist()
        [[3.0, 4.0], [1.0, 2.0]]
        >>> store.get(["a", "c"]) is None
        True
    """

    is_kept = False
    keeps_tensors = False

    def __init__(
        self, budget: Budget | None = None, directory: str | os.PathLike[str] | None = None
    ) -> None:
        self.budget = budget or Budget()
        self.directory = directory
        self.nbytes = 0
        self.is_on_disk = False
        self._reserved = 0
        self._places: dict[Hashable, tuple[_Block, int]] = {}
        self._open: dict[Signature, _Block] = {}

    def __len__(self) -> int:
        return len(self._places)

    def hits(self, keys: Sequence[Hashable]) -> int:
        """Return for how many of these keys there is a row."""
        return sum(key in self._places for key in keys)

    def get(self, keys: Sequence[Hashable]) -> list[np.ndarray] | None:
        """Return the rows of these keys, stacked; None if one is missing or of other shape."""
        try:
            places = [self._places[key] for key in keys]
        except KeyError:
            return None
        signature = places[0][0].signature
        if any(block.signature != signature for block, _ in places):
            return None
        stacked = [np.empty((len(keys), *shape), dtype) for shape, dtype in signature]
        for n, (block, row) in enumerate(places):
            for target, source in zip(stacked, block.arrays, strict=True):
                target[n] = source[row]
        return stacked

    def put(self, keys: Sequence[Hashable], arrays: Sequence[np.ndarray]) -> None:
        """Keep a row for each of these keys that has none yet.

        Raises:
            OSError: if a file can't be written.
        """
        signature = tuple((array.shape[1:], array.dtype) for array in arrays)
        for n, key in enumerate(keys):
            if key in self._places:
                continue
            block = self._open.get(signature)
            if block is None or block.is_full:
                block = self._open[signature] = self._new_block(signature)
            self._places[key] = block, block.append([array[n] for array in arrays])
            self.nbytes += block.row_bytes

    def withdraw(self) -> None:
        """Remove all rows: who has put which isn't known."""
        self.clear()

    def clear(self) -> None:
        """Remove all rows and release their memory."""
        self.budget.reserved -= self._reserved
        self.nbytes = self._reserved = 0
        self._places.clear()
        self._open.clear()

    def _new_block(self, signature: Signature) -> _Block:
        row_bytes = max(1, sum(math.prod(shape) * dtype.itemsize for shape, dtype in signature))
        rows = max(1, BLOCK_BYTES // row_bytes)
        fits = self.budget.rows(row_bytes)
        if fits:
            rows = min(rows, fits)
            self._reserved += rows * row_bytes
            self.budget.reserved += rows * row_bytes
            arrays = [np.empty((rows, *shape), dtype) for shape, dtype in signature]
        else:
            self.is_on_disk = True
            arrays = [_mapped((rows, *shape), dtype, self.directory) for shape, dtype in signature]
        return _Block(signature, arrays, row_bytes)


class _Block:
    """Some rows that are allocated together."""

    def __init__(self, signature: Signature, arrays: list[np.ndarray], row_bytes: int) -> None:
        self.signature = signature
        self.arrays = arrays
        self.row_bytes = row_bytes
        self.used = 0

    @property
    def is_full(self) -> bool:
        return self.used == len(self.arrays[0])

    def append(self, row: Sequence[np.ndarray]) -> int:
        for array, value in zip(self.arrays, row, strict=True):
            array[self.used] = value
        self.used += 1
        return self.used - 1


def _mapped(
    shape: tuple[int, ...], dtype: Any, directory: str | os.PathLike[str] | None
) -> np.ndarray:
    size = math.prod(shape) * dtype.itemsize
    if not size:
        return np.empty(shape, dtype)
    with tempfile.TemporaryFile(dir=directory, prefix="keras_freeze-") as file:
        # Written, not only extended: a full disk is an error here, and a later page fault a crash.
        zeros = bytes(2**20)
        for start in range(0, size, len(zeros)):
            file.write(zeros[: size - start])
        file.flush()
        mapped = np.memmap(file, np.uint8, "r+", shape=(size,))
    return mapped.view(dtype).reshape(shape)


def free_memory() -> int:
    """Return the bytes that this process can still allocate, by system and container."""
    free = int(psutil.virtual_memory().available)
    group = Path("/sys/fs/cgroup")
    try:
        limit = int((group / "memory.max").read_text())
        used = int((group / "memory.current").read_text())
    except (OSError, ValueError):  # no limit, or another system
        return free
    return min(free, max(0, limit - used))
