"""KerasHub's tasks, whose `fit` preprocesses its data: texts become tokens, images are scaled."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import keras
import numpy as np

from keras_freeze.checks import ArgumentError
from keras_freeze.keras_internals import random_state
from keras_freeze.model_picture import is_of_keras_hub

# What a converter makes of pixels has at most this extent, or is centred by at least so much: one
# that does less was not made for images of 0 to 255.
_EXTENT, _CENTRE = 10.0, 50.0
# How much of what a preprocessor says of data that it can't take is shown.
_LETTERS = 200


def is_task(model: keras.Model) -> bool:
    """Tell whether a model is one of KerasHub's tasks."""
    return is_of_keras_hub(model, "Task")


def preprocesses(model: keras.Model) -> bool:
    """Tell whether the `fit` of a model preprocesses its data first, as a task does.

    Either it has a preprocessor, or its class says itself what is done with samples.
    """
    if not is_task(model):
        return False
    methods = (vars(cls).get("preprocess_samples") for cls in type(model).__mro__)
    first = next(method for method in methods if method is not None)
    return model.preprocessor is not None or not first.__module__.startswith("keras_hub.")


def as_given(model: keras.Model, data: Any) -> Any:
    """Return data as `fit` takes them, which for a task are arrays in place of lists."""
    if not is_task(model):
        return data
    if isinstance(data, tuple):
        return tuple(as_given(model, part) for part in data)
    if isinstance(data, Mapping):
        return {name: as_given(model, part) for name, part in data.items()}
    try:
        return np.asarray(data) if isinstance(data, list) else data
    except ValueError:  # of arrays of several shapes
        return data


def preprocessed(owner: str, model: keras.Model, batch: Any) -> Any:
    """Return a batch as a task's `fit` has it, the states of random generators as they were.

    Args:
        owner: Str, the function in whose name errors are raised.
        model: `keras.Model`; a batch of any other is returned as it is.
        batch: Inputs, or a tuple of them, targets and weights of samples.

    Raises:
        ValueError: if the preprocessor can't take it.
    """
    if not preprocesses(model):
        return batch
    state = random_state.capture()
    try:
        return _as_fit_does(model, keras.utils.unpack_x_y_sample_weight(batch))
    except Exception as error:
        said = " ".join(str(error).split())
        short = said if len(said) <= _LETTERS else f"{said[:_LETTERS]}..."
        raise ArgumentError(
            owner,
            "x",
            f"be what fit of {model.name} takes, before its preprocessor",
            received=f"{type(error).__name__}: {short}",
            advice="What was preprocessed before goes to a task with preprocessor=None.",
        ) from error
    finally:
        random_state.restore(state)


def _as_fit_does(model: keras.Model, parts: tuple[Any, Any, Any]) -> Any:
    """Preprocess in `tf.data` or else at once: `fit` too takes whichever of both can be done."""
    try:
        import tensorflow as tf

        data = tf.data.Dataset.from_tensors(keras.utils.pack_x_y_sample_weight(*parts))
        made = data.map(lambda *given: model.preprocess_samples(*given))
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
    return bool(keras.ops.max(keras.ops.cast(images[0], "float32")) > _CENTRE)


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
