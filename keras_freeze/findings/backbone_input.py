"""What a model feeds its backbone: its own preprocessing may stand before it."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import keras
import numpy as np

from keras_freeze.keras_internals.attributes import own_attribute
from keras_freeze.model_picture import ModelPicture, all_untouched, is_batch_norm

# Layers that scale or pad images, with the letters that `preprocessing` has for them.
_STEPS: dict[type[keras.Layer], str] = {
    keras.layers.Rescaling: "R",
    keras.layers.Normalization: "N",
    keras.layers.ZeroPadding2D: "",
}


class _Reached(BaseException):
    """The first convolution was called; no `Exception`, whose text Keras would change."""

    def __init__(self, images: Any) -> None:
        super().__init__()
        self.images = images


@dataclasses.dataclass(frozen=True, eq=False)
class ImagesBefore:
    """Images on their way to a backbone's first convolution.

    Attributes:
        letters: Str, the steps that scale them, from the last to the first.
        stages: List of arrays, the images before so many of these steps, with channels last.
    """

    letters: str
    stages: tuple[np.ndarray[Any, Any], ...]


def images_before(picture: ModelPicture, x: Any) -> ImagesBefore | None:
    """Return what reaches a backbone's first convolution, as in inference; None if none has one.

    The model is called up to there and no further, and stays as it is. Where a new
    `BatchNormalization` stands before it, what will reach it is not known: None too.

    Args:
        picture: The picture of a model, with its groups and initial values.
        x: Inputs of the model, tensors.
    """
    within = {id(layer) for layer in picture.pretrained.layers} if picture.pretrained else set()
    made: dict[int, tuple[str, Any, Any]] = {}  # by what a step put out; which has to live on

    def step(letter: str, call: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(call)
        def stepping(images: Any, *args: Any, **kwargs: Any) -> Any:
            output = call(images, *args, **kwargs)
            made[id(output)] = letter, images, output
            return output

        return stepping

    def stop(images: Any, *args: Any, **kwargs: Any) -> Any:
        raise _Reached(images)

    def unknown(images: Any, *args: Any, **kwargs: Any) -> Any:
        raise _Reached(None)

    found = None
    with contextlib.ExitStack() as stack:
        for layer in picture.layers:
            if type(layer) in _STEPS:
                stepping = step(_STEPS[type(layer)], layer.call)
                stack.enter_context(own_attribute(layer, "call", stepping))
            elif id(layer) in within and isinstance(layer, keras.layers.Conv2D):
                stack.enter_context(own_attribute(layer, "call", stop))
            elif is_batch_norm(layer) and all_untouched(picture, [layer]):
                stack.enter_context(own_attribute(layer, "call", unknown))
        stack.enter_context(keras.StatelessScope())
        try:
            picture.model(x, training=False)
        except _Reached as reached:
            found = reached.images
    if found is None or len(found.shape) != 4:
        return None
    letters, stages = "", [found]
    while id(found) in made:
        letter, found, _ = made[id(found)]
        if letter:
            letters += letter
            stages.append(found)
        else:  # padding, which adds zeros
            stages[-1] = found
    return ImagesBefore(letters, tuple(map(as_array, stages)))


def as_array(images: Any) -> np.ndarray[Any, Any]:
    """Return images as a NumPy array with channels last."""
    array = np.asarray(keras.ops.convert_to_numpy(images), "float32")
    if keras.backend.image_data_format() == "channels_first":
        array = np.moveaxis(array, 1, -1)
    return array
