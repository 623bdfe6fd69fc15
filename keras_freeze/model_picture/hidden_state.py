"""State of layers that no Keras variable holds: torch buffers, and what a layer itself saves.

Keras can't freeze it, since it has no flag, and doesn't give it to anything that asks a model for
its weights. It is found where a layer saves more than its variables.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

import keras
import numpy as np

from keras_freeze.keras_internals.host_arrays import to_host
from keras_freeze.keras_internals.layers import own_variables
from keras_freeze.model_picture.layers import every_layer


@dataclasses.dataclass(frozen=True)
class HiddenState:
    """What a layer saves that holds more than its variables.

    Attributes:
        number: Int, the layer's place in `every_layer`.
        layer: `keras.Layer`.
        saved: Arrays by name, a copy of all that the layer saves.
        names: Tuple of those that are no variables.
    """

    number: int
    layer: keras.Layer
    saved: dict[str, np.ndarray]
    names: tuple[str, ...]


def hidden_states(model: keras.Layer) -> Iterator[HiddenState]:
    """Yield what layers hold that no variable does."""
    for number, layer in enumerate(every_layer(model)):
        saved = _saved_by(layer)
        names = _names_of_others(layer, saved)
        if names:
            yield HiddenState(number, layer, saved, names)


def frozen_hidden_states(model: keras.Layer) -> Iterator[HiddenState]:
    """Yield what layers hold that no variable does, for layers in which nothing trains."""
    for hidden in hidden_states(model):
        variables = [variable for variable, trained in own_variables(hidden.layer) if trained]
        if not any(v.trainable for v in variables) and (variables or not hidden.layer.trainable):
            yield hidden


def set_hidden_state(layer: keras.Layer, saved: Mapping[str, np.ndarray]) -> None:
    """Give a layer back what it saved, when its variables have their values again."""
    store: dict[str, Any] = {}
    layer.save_own_variables(store)
    layer.load_own_variables({**store, **saved})


def _saved_by(layer: keras.Layer) -> dict[str, np.ndarray]:
    """Return the numbers that a layer saves; none where it is known that these are its variables.

    Keras's own layers and KerasHub's save nothing else, but those that adapt or quantize save their
    variables in another form.
    """
    saves = str(type(layer).save_own_variables.__module__).partition(".")[0]
    if saves in ("keras", "keras_hub") and not _is_of_torch(layer):
        return {}
    store: dict[str, Any] = {}
    layer.save_own_variables(store)
    arrays = {name: np.array(value) for name, value in store.items()}
    return {name: array for name, array in arrays.items() if array.dtype.kind in "biufc"}


def _names_of_others(layer: keras.Layer, saved: Mapping[str, np.ndarray]) -> tuple[str, ...]:
    """Return the names of saved arrays that are no variables; by their values where need be."""
    if _is_of_torch(layer):
        return tuple(name for name, _ in layer.module.named_buffers() if name in saved)
    variables = Counter(_content(to_host(variable)) for variable, _ in own_variables(layer))
    found = []
    for name, array in saved.items():
        content = _content(array)
        if variables[content]:
            variables[content] -= 1
        else:
            found.append(name)
    return tuple(found)


def _is_of_torch(layer: keras.Layer) -> bool:
    return isinstance(layer, keras.layers.TorchModuleWrapper)


def _content(array: np.ndarray) -> tuple[tuple[int, ...], bytes]:
    return array.shape, array.tobytes()
