"""Which layers still have the values that they were made with, so that nothing has trained them.

A kernel's initial values are random and can't be recognized; those of a bias or a
`BatchNormalization` are constants.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import Any

import keras
import numpy as np

from keras_freeze.model_picture.layers import Weight, is_batch_norm
from keras_freeze.model_picture.picture import ModelPicture

_STATISTICS = ("moving_mean", "moving_variance")


def with_initial_values(picture: ModelPicture) -> ModelPicture:
    """Return a picture that says which layers are untouched, by the values of their weights."""
    by_layer: dict[int, list[Weight]] = {}
    for weight in picture.weights:
        by_layer.setdefault(id(weight.layer), []).append(weight)
    untouched = frozenset(i for i, weights in by_layer.items() if _are_untouched(weights))
    return dataclasses.replace(picture, untouched=untouched)


def all_untouched(picture: ModelPicture, layers: Iterable[keras.Layer]) -> bool:
    """Tell whether nothing has trained some layers, as far as their values can show it.

    Args:
        picture: As `with_initial_values` returns it.
        layers: `keras.Layer`s of the model.

    Returns:
        Bool; False where no layer has a bias or is a `BatchNormalization`.
    """
    judged = [
        weight for layer in layers for weight in picture.weights_in[id(layer)] if _is_known(weight)
    ]
    return bool(judged) and all(id(weight.layer) in picture.untouched for weight in judged)


def _are_untouched(weights: Iterable[Weight]) -> bool:
    """Tell it of the weights of one layer; of a `BatchNormalization` by its statistics alone."""
    known = [weight for weight in weights if _is_known(weight)]
    for weight in known:
        value, initial = weight.variable.value, _initial_value(weight)
        if initial is None or not np.array_equal(keras.ops.convert_to_numpy(value), initial):
            return False
    return bool(known)


def _is_known(weight: Weight) -> bool:
    is_statistic = is_batch_norm(weight.layer) and weight.variable.name in _STATISTICS
    is_judged = weight.variable.name == "bias" or is_statistic
    return is_judged and _initial_value(weight) is not None


def _initial_value(weight: Weight) -> np.ndarray[Any, Any] | None:
    """Return the constant that a bias or statistic was made with, None if there was none."""
    layer, variable = weight.layer, weight.variable
    initializer = getattr(layer, f"{variable.name}_initializer", None)
    if isinstance(initializer, keras.initializers.Constant):
        value = np.full(variable.shape, initializer.value)
    elif isinstance(initializer, keras.initializers.Ones):
        value = np.ones(variable.shape)
    elif isinstance(initializer, keras.initializers.Zeros):
        value = np.zeros(variable.shape)
    else:
        return None
    if getattr(layer, "unit_forget_bias", False):
        units = len(value) // 4  # a quarter for each gate, the forget gate's the second
        value[units : 2 * units] = 1.0
    return value.astype(keras.backend.standardize_dtype(variable.dtype))
