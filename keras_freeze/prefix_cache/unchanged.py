"""Notice that a weight has changed, at a cost that allows asking before every step."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np

from keras_freeze.fingerprints import fingerprint_of


class Watch:
    """Remembers weights, and tells whether they are still the same to the last bit.

    On a host, a weight that has been written to is found in another place (TensorFlow, by whatever
    means it was written), is another object (JAX) or has another version (torch, but for writes
    through `.data`). Only then its bytes are compared; where that is not certain, and on other
    devices, they are compared if asked for.

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
        self._held: list[Any] = _held(present)
        self._prints = [fingerprint_of(value) for value in present]

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
        held = _held(present)
        suspects = [
            n
            for n, (new, old) in enumerate(zip(held, self._held, strict=True))
            if not _is_same(new, old) or (thorough and not isinstance(new, np.ndarray))
        ]
        found = [n for n in suspects if fingerprint_of(present[n]) != self._prints[n]]
        if not found:
            self._held = held
        return found

    def follow(self, values: Sequence[Any]) -> None:
        """Take these as the same values in other objects, as a step of JAX returns them."""
        self._held = _held(values)


def _reader(variables: Sequence[keras.Variable]) -> Callable[[], list[Any]]:
    if keras.backend.backend() != "tensorflow":
        return lambda: [variable.value for variable in variables]
    import tensorflow as tf

    # One call for all of them, since each costs more than what it reads.
    def read() -> list[Any]:
        return [tf.convert_to_tensor(variable.value) for variable in variables]

    concrete = tf.function(read, autograph=False).get_concrete_function()
    return lambda: list(concrete())


def _held(values: Sequence[Any]) -> list[Any]:
    return [_hold(value) for value in values]


def _hold(value: Any) -> Any:
    """Return what tells whether a value has been written to; None where nothing does."""
    backend = keras.backend.backend()
    if backend == "tensorflow":
        return np.asarray(value) if "CPU" in value.device else None
    if backend == "torch":
        return value.data_ptr(), value._version
    return value


def _is_same(new: Any, old: Any) -> bool:
    if isinstance(new, np.ndarray) and isinstance(old, np.ndarray):
        return np.may_share_memory(new, old)  # the old one is held, so its place is not free
    return new == old if isinstance(new, tuple) else new is old  # None on other devices
