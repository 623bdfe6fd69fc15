"""Six small models for `memory.py`: what people fine-tune, at a size that compiles in seconds."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import keras
from keras import layers


def vgg_like(width: int = 16, side: int = 32) -> keras.Model:
    """Convolutions and pooling in three blocks, and a dense head."""
    x = inputs = keras.Input((side, side, 3))
    for block in range(3):
        for _ in range(2):
            x = layers.Conv2D(width << block, 3, padding="same", activation="relu")(x)
        x = layers.MaxPooling2D()(x)
    x = layers.Dense(4 * width, activation="relu")(layers.Flatten()(x))
    return keras.Model(inputs, layers.Dense(10, activation="softmax")(x), name="vgg_like")


def resnet_like(width: int = 16, side: int = 32) -> keras.Model:
    """Residual blocks with BatchNorm in three stages."""

    def convolved(x: keras.KerasTensor, filters: int, size: int, stride: int) -> keras.KerasTensor:
        x = layers.Conv2D(filters, size, stride, padding="same", use_bias=False)(x)
        return layers.BatchNormalization()(x)

    inputs = keras.Input((side, side, 3))
    x = layers.ReLU()(convolved(inputs, width, 3, 1))
    for stage in range(3):
        filters, stride = width << stage, 2 if stage else 1
        y = layers.ReLU()(convolved(x, filters, 3, stride))
        y = convolved(y, filters, 3, 1)
        shortcut = convolved(x, filters, 1, stride) if stage else x
        x = layers.ReLU()(layers.Add()([y, shortcut]))
    x = layers.GlobalAveragePooling2D()(x)
    return keras.Model(inputs, layers.Dense(10, activation="softmax")(x), name="resnet_like")


def lstm_stack(width: int = 16, side: int = 32) -> keras.Model:
    """An embedding, three LSTM layers and a dense head."""
    inputs = keras.Input((side,), dtype="int32")
    x = layers.Embedding(50 * width, 2 * width)(inputs)
    for sequences in (True, True, False):
        x = layers.LSTM(2 * width, return_sequences=sequences)(x)
    return keras.Model(inputs, layers.Dense(10, activation="softmax")(x), name="lstm_stack")


def transformer(width: int = 16, side: int = 32) -> keras.Model:
    """Three encoder blocks over embedded tokens."""
    inputs = keras.Input((side,), dtype="int32")
    x = layers.Embedding(20 * width, 2 * width)(inputs)
    for _ in range(3):
        y = layers.LayerNormalization()(x)
        x = layers.Add()([x, layers.MultiHeadAttention(2, width)(y, y)])
        y = layers.Dense(8 * width, activation="gelu")(layers.LayerNormalization()(x))
        x = layers.Add()([x, layers.Dense(2 * width)(y)])
    x = layers.GlobalAveragePooling1D()(x)
    return keras.Model(inputs, layers.Dense(10, activation="softmax")(x), name="transformer")


def mlp(width: int = 16, side: int = 32) -> keras.Model:
    """Five dense layers with Dropout."""
    x = inputs = keras.Input((8 * width,))
    for _ in range(4):
        x = layers.Dropout(0.2)(layers.Dense(8 * width, activation="relu")(x))
    return keras.Model(inputs, layers.Dense(10, activation="softmax")(x), name="mlp")


def separable_cnn(width: int = 16, side: int = 32) -> keras.Model:
    """Depthwise and pointwise convolutions with BatchNorm, as in MobileNet."""
    inputs = keras.Input((side, side, 3))
    x = layers.Conv2D(width, 3, 2, padding="same", use_bias=False)(inputs)
    x = layers.ReLU(6.0)(layers.BatchNormalization()(x))
    for block in range(3):
        x = layers.DepthwiseConv2D(3, padding="same", use_bias=False)(x)
        x = layers.ReLU(6.0)(layers.BatchNormalization()(x))
        x = layers.Conv2D(width << block, 1, use_bias=False)(x)
        x = layers.ReLU(6.0)(layers.BatchNormalization()(x))
    x = layers.GlobalAveragePooling2D()(x)
    return keras.Model(inputs, layers.Dense(10, activation="softmax")(x), name="separable_cnn")


@dataclasses.dataclass(frozen=True)
class Case:
    """A model and the batches it is trained with.

    Attributes:
        build: From width and side to the model.
        batch_size: Int.
    """

    build: Callable[..., keras.Model]
    batch_size: int


CASES = {
    "VGG-like CNN": Case(vgg_like, 32),
    "ResNet-like": Case(resnet_like, 32),
    "LSTM stack": Case(lstm_stack, 64),
    "transformer encoder": Case(transformer, 64),
    "MLP": Case(mlp, 512),
    "separable CNN": Case(separable_cnn, 32),
}


def weighted_layers(model: keras.Model) -> list[str]:
    """Return the names of the layers with weights, but for the last, from input to output."""
    return [layer.name for layer in model.layers if layer.weights][:-1]


def cuts(model: keras.Model, count: int | None = None) -> list[int]:
    """Return how many of these layers to freeze: 0 to all, or about `count` numbers in between."""
    last = len(weighted_layers(model))
    count = last + 1 if count is None else count
    return sorted({round(n * last / (count - 1)) for n in range(count)})
