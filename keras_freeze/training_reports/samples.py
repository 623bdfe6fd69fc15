"""A sample of each weight as a training began: enough to say about how far groups have moved."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import keras
import numpy as np

from keras_freeze.measures import WeightChange, measured_weights
from keras_freeze.model_picture import ModelPicture

# As many values of each variable are kept.
_MAX = 1024


class WeightSamples:
    """Some values of the weights of each group.

    Args:
        values: By group, the sample of each variable, in order.
    """

    def __init__(self, values: Mapping[str, list[np.ndarray[Any, Any]]]) -> None:
        self.values = values

    @classmethod
    def of(cls, picture: ModelPicture) -> WeightSamples:
        """Return samples of the present weights of a model."""
        return cls(_samples(picture))

    def moved(self, picture: ModelPicture) -> dict[str, float]:
        """Return how far each group has moved since, as `WeightChange` measures it."""
        found = {}
        for name, now in _samples(picture).items():
            before = self.values.get(name, [])
            if before and len(before) == len(now):
                found[name] = WeightChange().change(before, now)
        return found


def _samples(picture: ModelPicture) -> dict[str, list[np.ndarray[Any, Any]]]:
    measured = {id(variable) for variable in measured_weights(picture)}
    found: dict[str, list[np.ndarray[Any, Any]]] = {group.name: [] for group in picture.groups}
    for group in picture.groups:
        for variable in group.variables:
            if id(variable) in measured and keras.backend.is_float_dtype(variable.dtype):
                found[group.name].append(_sample(variable))
    return found


def _sample(variable: keras.Variable) -> np.ndarray[Any, Any]:
    size = math.prod(variable.shape)
    places = np.linspace(0, size - 1, min(size, _MAX)).astype("int32")
    # On its device: only the sample is brought to the host.
    kept = keras.ops.take(keras.ops.reshape(variable.value, (-1,)), places)
    return keras.ops.convert_to_numpy(keras.ops.cast(kept, "float32"))
