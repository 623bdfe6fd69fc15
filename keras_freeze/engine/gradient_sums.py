"""Add up the gradients of a training's own steps, for each variable that an optimizer updates.

They are unscaled, before clipping, and those of every batch where gradients are accumulated. The
sums are slots of the optimizer: carried over, captured and restored as all others, but in no file.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import keras
import numpy as np

from keras_freeze.engine.optimizer_state import leaf_optimizers
from keras_freeze.keras_internals import optimizers
from keras_freeze.keras_internals.host_arrays import to_host
from keras_freeze.model_picture import optimizers_of


def read(model: keras.Model) -> dict[int, np.ndarray]:
    """Return the sums by variable id; none where nothing is recorded."""
    found: dict[int, np.ndarray] = {}
    for leaf in _leaves(model):
        sums = optimizers.gradient_sums(leaf)
        for variable, total in zip(optimizers.built_variables(leaf), sums, strict=False):
            found[id(variable)] = to_host(total)
    return found


def reset(model: keras.Model) -> None:
    """Begin to add up anew."""
    for leaf in _leaves(model):
        for total in optimizers.gradient_sums(leaf):
            total.assign(keras.ops.zeros(total.shape, total.dtype))


def _leaves(model: keras.Model) -> Iterator[Any]:
    return (leaf for optimizer in optimizers_of(model) for leaf in leaf_optimizers(optimizer))
