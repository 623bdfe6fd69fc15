"""Start each trial from the weights that the first one had, where models share layers.

A build function that puts a new head on the same backbone each time passes the backbone's weights
on to the next trial as the last one left them. So what two builds have in common is restored: its
values to those of the first build, its flags to those of the last, before a trial changed them.
What only one build has is left alone: the user may hold its model.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np

from keras_freeze.keras_internals.host_arrays import to_host
from keras_freeze.model_picture import every_layer


class FreshWeights:
    """Remember weights as a build function returned them.

    Example:
        >>> shared = keras.layers.Dense(2)
        >>> fresh = FreshWeights()
        >>> fresh.begin(keras.Sequential([keras.Input((3,)), shared]))
        >>> _ = shared.bias.assign([1.0, 1.0])
        >>> fresh.begin(keras.Sequential([keras.Input((3,)), shared]))
        >>> float(shared.bias[0])
        0.0
    """

    def __init__(self) -> None:
        self._starts: dict[int, tuple[weakref.ref[Any], np.ndarray]] = {}
        self._shared: set[int] = set()
        self._flags: list[tuple[weakref.ref[Any], bool]] = []

    def restore(self) -> None:
        """Restore what builds have in common, before a model is built of it."""
        self._drop_released()
        for owner, flag in self._flags:
            alive = owner()
            if alive is not None:
                alive.trainable = flag
        for key in self._shared:
            reference, value = self._starts[key]
            variable = reference()
            if variable is not None:
                variable.assign(value)

    def begin(self, model: keras.Model) -> None:
        """Restore what a new model has in common with earlier ones, and remember the rest."""
        self._drop_released()
        for variable in model.variables:
            known = self._starts.get(id(variable))
            if known is None:
                value = to_host(variable)
                self._starts[id(variable)] = weakref.ref(variable), value
            elif id(variable) not in self._shared:
                self._shared.add(id(variable))
                variable.assign(known[1])
        self._flags = [(weakref.ref(owner), bool(owner.trainable)) for owner in self._owners(model)]

    def _owners(self, model: keras.Model) -> Iterator[Any]:
        """Yield the layers and variables that belong to other models too, the outermost first."""
        for layer in every_layer(model):
            if layer.weights and all(id(variable) in self._shared for variable in layer.weights):
                yield layer
        yield from (variable for variable in model.weights if id(variable) in self._shared)

    def shares(self, model: keras.Model) -> bool:
        """Tell whether a model has weights in common with another."""
        return any(id(variable) in self._shared for variable in model.variables)

    def _drop_released(self) -> None:
        alive = {i: start for i, start in self._starts.items() if start[0]() is not None}
        self._starts, self._shared = alive, self._shared & alive.keys()
