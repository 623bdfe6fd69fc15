"""Detect that a weight has changed, cheaply enough to ask before every step."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import keras
import numpy as np

from keras_freeze.engine import fingerprint_of
from keras_freeze.keras_internals.tensors import write_mark


class Watch:
    """Remembers weights, and tells whether they are still the same to the last bit.

    On a host, a weight that has been written to is at another address (TensorFlow), is another
    object (JAX), or has another version (torch, except for writes through `.data`). Only then is
    it compared with its earlier value. On other devices nothing shows a write, and fingerprints
    are compared on request.

    Args:
        variables: Sequence of `keras.Variable`.
        values: Their values, where these are not to be found in them (JAX, in a step).
    """

    def __init__(
        self, variables: Sequence[keras.Variable], values: Sequence[Any] | None = None
    ) -> None:
        self.variables = tuple(variables)
        self._read = _reader(self.variables)
        present = self._read() if values is None else list(values)
        self._held = [_hold(value) for value in present]

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


class _Held(Protocol):
    """A record that tells whether a value has been written to."""

    def is_changed(self, value: Any, thorough: bool) -> bool:
        """Compare the current value; if it is the same at another place, record the place."""

    def follow(self, value: Any) -> None:
        """Record where the same value is now."""


class _Place:
    """A tensor of TensorFlow on the host, by its address: a write moves it."""

    def __init__(self, value: Any) -> None:
        self._print: bytes | None = None
        self.follow(value)

    def is_changed(self, value: Any, thorough: bool) -> bool:
        # The old one is held, so that its place is not free.
        if np.may_share_memory(np.asarray(value), self._array):
            return False
        if self._print is None:
            self._print = fingerprint_of(self._value)
        if fingerprint_of(value) != self._print:
            return True
        self.follow(value)
        return False

    def follow(self, value: Any) -> None:
        self._value, self._array = value, np.asarray(value)


class _Print:
    """Any other value: the object (JAX) or its version (torch), and its fingerprint."""

    def __init__(self, value: Any) -> None:
        self._print = fingerprint_of(value)
        self.follow(value)

    def is_changed(self, value: Any, thorough: bool) -> bool:
        if not thorough and write_mark(value) == self._mark:
            return False
        if fingerprint_of(value) != self._print:
            return True
        self.follow(value)
        return False

    def follow(self, value: Any) -> None:
        self._mark, self._value = write_mark(value), value


def _reader(variables: Sequence[keras.Variable]) -> Callable[[], list[Any]]:
    if keras.backend.backend() != "tensorflow":
        return lambda: [variable.value for variable in variables]
    import tensorflow as tf

    # One call for all of them, since each costs more than what it reads.
    def read() -> list[Any]:
        return [tf.convert_to_tensor(variable.value) for variable in variables]

    concrete = tf.function(read, autograph=False).get_concrete_function()
    return lambda: list(concrete())


def _hold(value: Any) -> _Held:
    is_place = keras.backend.backend() == "tensorflow" and "CPU" in value.device
    return _Place(value) if is_place else _Print(value)
