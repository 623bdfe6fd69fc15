"""Detect that a weight has changed, cheaply enough to ask before every step."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from keras_freeze.engine import fingerprint_of
from keras_freeze.keras_internals.tensors import is_on_host, reader_of, write_mark


class Watch:
    """Remembers weights, and tells whether they are still the same to the last bit.

    On a host, a weight that has been written to is at another address (TensorFlow), is another
    object (JAX), or has another version (torch, except for writes through `.data`). Only then is
    it compared with its earlier value. On other devices JAX has no other way to write, and
    TensorFlow none that shows; there, as on torch, fingerprints are compared on request.

    Args:
        variables: Sequence of `keras.Variable`.
        values: Their values, where these are not to be found in them (JAX, in a step).
    """

    def __init__(
        self, variables: Sequence[keras.Variable], values: Sequence[Any] | None = None
    ) -> None:
        self.variables = tuple(variables)
        self._read = reader_of(self.variables)
        present = self._read() if values is None else list(values)
        self._held = [_Held(value) for value in present]

    def changed(self, values: Sequence[Any] | None = None, thorough: bool = False) -> list[int]:
        """Return which weights have changed.

        Args:
            values: As above.
            thorough: Bool, whether to compare bytes where nothing quicker is certain. Defaults
                to False.

        Returns:
            List of int, positions in `variables`.
        """
        present = self._read() if values is None else list(values)
        pairs = enumerate(zip(present, self._held, strict=True))
        return [n for n, (value, held) in pairs if held.is_changed(value, thorough)]

    def follow(self, values: Sequence[Any]) -> None:
        """Take these as the same values in other objects, as a step of JAX returns them."""
        for held, value in zip(self._held, values, strict=True):
            held.follow(value)


class _Held:
    """A value, and what shows a write to it, after which its bytes are compared.

    That is the address on TensorFlow's host, where a write moves what is held: only then is a
    fingerprint taken. Elsewhere it is taken at once, for the bytes may be written in place.
    """

    def __init__(self, value: Any) -> None:
        backend, on_host = keras.backend.backend(), is_on_host(value)
        self._is_moved = backend == "tensorflow" and on_host
        # On a host, an array of NumPy may share the memory of one of JAX, and be written to.
        self._is_constant = backend == "jax" and not on_host
        self._print = None if self._is_moved else fingerprint_of(value)
        self.follow(value)

    def is_changed(self, value: Any, thorough: bool) -> bool:
        """Compare the current value; if it is the same at another place, record the place."""
        if self._is_moved:
            is_untouched = np.may_share_memory(np.asarray(value), self._mark)
        else:
            is_marked = write_mark(value) == self._mark
            is_untouched = is_marked and (self._is_constant or not thorough)
        if is_untouched:
            return False
        if self._print is None:
            self._print = fingerprint_of(self._value)
        if fingerprint_of(value) != self._print:
            return True
        self.follow(value)
        return False

    def follow(self, value: Any) -> None:
        """Record where the same value is now; it is held, so that its place is not free."""
        self._value = value
        self._mark = np.asarray(value) if self._is_moved else write_mark(value)
