"""KerasHub's tasks, whose `fit` preprocesses its data: texts become tokens, images are scaled."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from typing import Any

import keras
import numpy as np

from keras_freeze.checks import ArgumentError
from keras_freeze.model_picture import is_of_keras_hub

# A converter for pixels scales 0 to 255 to a range of at most this size, or subtracts at least so
# much.
_EXTENT, _CENTRE = 10.0, 50.0
# A pixel is brighter than what such a converter makes of any.
_BRIGHT = 50.0
# How much of an error of a preprocessor is shown.
_MAX_CHARS = 200


def is_task(model: keras.Model) -> bool:
    """Tell whether a model is one of KerasHub's tasks."""
    return is_of_keras_hub(model, "Task")


def preprocesses(model: keras.Model) -> bool:
    """Tell whether the `fit` of a model preprocesses its data first, as a task does.

    Either it has a preprocessor, or its class overrides `preprocess_samples`.
    """
    if not is_task(model):
        return False
    is_own = not type(model).preprocess_samples.__module__.startswith("keras_hub.")
    return is_own or model.preprocessor is not None


def lists_as_arrays(model: keras.Model, data: Any) -> Any:
    """Return data for a task with an array in place of each list, as its `fit` takes them."""
    if not is_task(model):
        return data
    if isinstance(data, tuple):
        return tuple(lists_as_arrays(model, part) for part in data)
    if isinstance(data, Mapping):
        return {name: lists_as_arrays(model, part) for name, part in data.items()}
    try:
        return np.asarray(data) if isinstance(data, list) else data
    except ValueError:  # of arrays of several shapes
        return data


def preprocessed(owner: str, model: keras.Model, batch: Any) -> Any:
    """Return a batch as a task's `fit` has it.

    Args:
        owner: Str, the function in whose name errors are raised.
        model: `keras.Model`; a batch of any other is returned as it is.
        batch: Inputs, or a tuple of them, targets and weights of samples.

    Raises:
        ValueError: if the preprocessor can't take it.
    """
    if not preprocesses(model):
        return batch
    try:
        return _as_fit_does(model, keras.utils.unpack_x_y_sample_weight(batch))
    except Exception as error:
        said = textwrap.shorten(str(error), _MAX_CHARS, placeholder="...")
        raise ArgumentError(
            owner,
            "x",
            f"be what fit of {model.name} preprocesses",
            received=f"{type(error).__name__}: {said}",
            advice="For data that are preprocessed already, set model.preprocessor = None.",
        ) from error


def _as_fit_does(model: keras.Model, parts: tuple[Any, Any, Any]) -> Any:
    """Preprocess in `tf.data`, or else at once: where grain is installed, `fit` does either."""
    try:
        import tensorflow as tf

        data = tf.data.Dataset.from_tensors(keras.utils.pack_x_y_sample_weight(*parts))
        made = data.map(model.preprocess_samples)
        return next(made.as_numpy_iterator())
    except Exception:
        return model.preprocess_samples(*parts)


def takes_pixels(model: keras.Model) -> bool:
    """Tell whether a model is a task whose preprocessor scales images of 0 to 255.

    The presets of tasks have an `ImageConverter`, with the scale and offset that the weights were
    trained with. One that does not scale says nothing: the backbone may do it, or the user.
    """
    scale, offset = _converter(model)
    return bool(_is_small(scale) or ((scale == 1).all() and offset.max() <= -_CENTRE))


def are_pixels(model: keras.Model, x: Any) -> bool:
    """Tell whether inputs are certainly images of 0 to 255 that a task's preprocessor scales."""
    images = [leaf for leaf in keras.tree.flatten(x) if len(getattr(leaf, "shape", ())) == 4]
    if not _is_small(_converter(model)[0]) or len(images) != 1:
        return False
    return bool(keras.ops.max(keras.ops.cast(images[0], "float32")) > _BRIGHT)


def _is_small(scale: np.ndarray[Any, Any]) -> bool:
    extent = 255 * np.abs(scale)
    return bool(extent.min() > 0 and extent.max() <= _EXTENT)


def _converter(model: keras.Model) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Return the scale and the offset of a task's `ImageConverter`, by channel; 1 and 0 of none."""
    preprocessor = model.preprocessor if is_task(model) else None
    converter = getattr(preprocessor, "image_converter", preprocessor)
    if not isinstance(converter, keras.Layer) or not is_of_keras_hub(converter, "ImageConverter"):
        return np.ones(1), np.zeros(1)
    scale = 1.0 if converter.scale is None else converter.scale
    offset = 0.0 if converter.offset is None else converter.offset
    return np.asarray(scale, "float64"), np.asarray(offset, "float64")
