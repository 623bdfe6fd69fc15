"""`activations`: what a layer puts out for some inputs."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np

from keras_freeze.checks import check_count
from keras_freeze.explain.inputs import batches_of, checked_inputs
from keras_freeze.explain.observation import (
    as_array,
    find_layer,
    observe,
    only_tensor,
    output_in,
)
from keras_freeze.measures import infer, watched
from keras_freeze.model_picture import check_model

_OWNER = "explain.activations"


def activations(
    model: keras.Model, x: Any, layer: str | keras.Layer, *, batch_size: int = 32
) -> np.ndarray:
    """Return what a layer puts out in inference; nothing in the model changes.

    Args:
        model: `keras.Model`, built.
        x: Inputs, an array or a nest of arrays.
        layer: Str or `keras.Layer`, of the model or of a model nested in it. It is called once in a
            forward pass and returns one array.
        batch_size: Int, samples that are computed together. A model that is built for batches of a
            certain size gets those. Defaults to 32.

    Returns:
        Array of shape `(samples, ...)`, in float32 where the layer returns floats.

    Raises:
        TypeError: if an argument is of another type.
        ValueError: if the layer is unknown, if several have its name, if it is not called or called
            several times, or if it returns several arrays.

    Example:
        >>> model = keras.Sequential(
        ...     [keras.Input((4,)), keras.layers.Dense(3, name="low"), keras.layers.Dense(2)]
        ... )
        >>> activations(model, np.ones((5, 4)), "low").shape
        (5, 3)
    """
    check_model(_OWNER, model)
    check_count(_OWNER, "batch_size", batch_size)
    data = checked_inputs(_OWNER, model, x)
    chosen = find_layer(_OWNER, model, layer)
    output_in(_OWNER, observe(model, data), chosen)
    found: list[np.ndarray] = []
    for batch, kept in batches_of(model, data, batch_size):
        outputs: list[Any] = []

        def see(_: Any, output: Any, into: list[Any] = outputs) -> Any:
            into.append(only_tensor(output))
            return output

        with watched([chosen], see):
            infer(model, batch)
        found.append(as_array(outputs[0])[:kept])
    return np.concatenate(found)
