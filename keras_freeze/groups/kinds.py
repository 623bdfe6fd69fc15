"""Tell what kind of layer a layer is, as far as grouping cares."""

from __future__ import annotations

import re

import keras

from keras_freeze.keras_internals.layers import own_variables, sublayers
from keras_freeze.model_picture import (
    every_layer,
    is_attention,
    is_composite,
    is_transformer_block,
)

_layers = keras.layers
_NORMALIZATIONS = (
    _layers.BatchNormalization,
    _layers.LayerNormalization,
    _layers.GroupNormalization,
    _layers.UnitNormalization,
    _layers.RMSNormalization,
    _layers.Normalization,
)


def is_dense(layer: keras.Layer) -> bool:
    """Tell whether a layer is a Dense layer in any of its forms."""
    if isinstance(layer, _layers.TimeDistributed | _layers.SpectralNormalization):
        return is_dense(layer.layer)
    return isinstance(layer, _layers.Dense | _layers.EinsumDense)


def is_normalization(layer: keras.Layer) -> bool:
    """Tell whether a layer normalizes, whoever wrote it."""
    return isinstance(layer, _NORMALIZATIONS) or _is_small(layer, "norm")


def accompanies(layer: keras.Layer) -> bool:
    """Tell whether a layer with weights belongs to the layer before it: norms, PReLU, scales."""
    return is_normalization(layer) or isinstance(layer, _layers.PReLU) or _is_small(layer, "scale")


def _is_small(layer: keras.Layer, word: str) -> bool:
    """Tell whether a custom layer is named after what it does and holds no other layers."""
    return word in type(layer).__name__.lower() and not sublayers(layer)


def is_pointwise(layer: keras.Layer) -> bool:
    """Tell whether a layer may be the feed-forward part of an attention block."""
    kernel = getattr(layer, "kernel_size", None)
    return is_dense(layer) or (kernel is not None and (len(kernel) == 1 or set(kernel) == {1}))


def is_recurrent(layer: keras.Layer) -> bool:
    """Tell whether a layer is recurrent, `Bidirectional` included."""
    return isinstance(layer, _layers.RNN | _layers.Bidirectional)


def is_block(layer: keras.Layer) -> bool:
    """Tell whether a layer is a group of its own wherever it stands."""
    return is_recurrent(layer) or is_transformer_block(layer)


def is_head_like(layer: keras.Layer, *, on_vectors: bool) -> bool:
    """Tell whether a layer may stand in a head.

    Args:
        layer: `keras.Layer` with weights.
        on_vectors: Bool. Whether it acts on feature vectors, without space or time: only then
            are a norm, a 1×1 convolution or a custom layer made of dense layers head-like.
    """
    if is_dense(layer):
        return True
    if is_composite(layer) and not is_attention(layer):
        inner = [leaf for leaf in every_layer(layer) if own_variables(leaf)]
        return on_vectors and all(is_dense(leaf) or accompanies(leaf) for leaf in inner)
    return on_vectors and (accompanies(layer) or is_pointwise(layer))


def has_automatic_name(layer: keras.Layer) -> bool:
    """Tell whether Keras may have made a layer's name from its class, as in `conv2d_12`.

    Such a name has another number in each build. Nothing tells it from one that a user wrote in
    this form, nor could it after saving and loading.
    """
    name = re.sub(r"(.)([A-Z][a-z]+)", r"\1_\2", type(layer).__name__)
    name = re.sub(r"([a-z])([A-Z])", r"\1_\2", name).lower()
    return re.fullmatch(re.escape(name) + r"(_\d+)?", layer.name) is not None
