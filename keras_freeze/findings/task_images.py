"""What a KerasHub task gets: images as they were before its own preprocessor scaled them."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np

from keras_freeze.findings.backbone_input import as_array
from keras_freeze.model_picture import is_of_keras_hub

# What pixels become has at most this extent, or is centred by at least so much: a converter that
# does less was not made for images of 0 to 255.
_EXTENT, _CENTRE = 10.0, 50.0


def takes_pixels(model: keras.Model) -> bool:
    """Tell whether a model is a task whose preprocessor scales images of 0 to 255.

    Its presets have an `ImageConverter` each, with the scale and offset that the weights were
    trained with. One that does not scale says nothing: the backbone may do it, or the user.

    Args:
        model: `keras.Model`.
    """
    return _converter(model) is not None


def images_given(model: keras.Model, x: Any) -> np.ndarray[Any, Any] | None:
    """Return the images that a task was given; None if it isn't known.

    Args:
        model: `keras.Model`; of one for which `takes_pixels` doesn't hold nothing is known.
        x: What its preprocessor made of them.
    """
    converter = _converter(model)
    images = [leaf for leaf in keras.tree.flatten(x) if len(getattr(leaf, "shape", ())) == 4]
    if converter is None or len(images) != 1:
        return None
    scale, offset = converter
    return (as_array(images[0]) - offset) / scale


def _converter(model: keras.Model) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]] | None:
    """Return the scale and the offset of a task's `ImageConverter`, by channel."""
    preprocessor = model.preprocessor if is_of_keras_hub(model, "Task") else None
    converter = getattr(preprocessor, "image_converter", None)
    if converter is None or not (hasattr(converter, "scale") and hasattr(converter, "offset")):
        return None
    scale = np.asarray(1.0 if converter.scale is None else converter.scale, "float32")
    offset = np.asarray(0.0 if converter.offset is None else converter.offset, "float32")
    extent = 255 * np.abs(scale)
    is_small = extent.min() > 0 and extent.max() <= _EXTENT
    is_centred = (scale == 1).all() and offset.max() <= -_CENTRE
    return (scale, offset) if is_small or is_centred else None
