"""Models of the families that people fine-tune, for tests of several folders."""

import keras
import pytest
from keras import layers

STAGES = ["stage1", "stage2", "stage3", "stage4", "stage5", "head"]
CONVS = ["conv1", "conv2", "conv3", "conv4", "conv5", "head"]
BLOCKS = ["block1", "block2", "block3", "block4", "block5"]
MIXES = ["stem", "mixed5", "block35", "mixed6", "block17", "mixed7", "block8", "head"]
# `make test-all` builds the largest, and those that are like another.
FAMILIES = [
    pytest.param("VGG16", 32, [*BLOCKS, "head"]),
    pytest.param("VGG19", 32, [*BLOCKS, "head"], marks=pytest.mark.slow),
    pytest.param("ResNet50", 32, CONVS),
    pytest.param("ResNet50V2", 32, CONVS, marks=pytest.mark.slow),
    pytest.param("MobileNet", 32, STAGES, marks=pytest.mark.slow),
    pytest.param("MobileNetV2", 32, STAGES, marks=pytest.mark.slow),
    pytest.param("MobileNetV3Small", 32, STAGES, marks=pytest.mark.slow),
    pytest.param("Xception", 71, STAGES, marks=pytest.mark.slow),
    pytest.param("InceptionV3", 75, STAGES, marks=pytest.mark.slow),
    pytest.param("InceptionResNetV2", 75, MIXES, marks=pytest.mark.slow),
    pytest.param("NASNetMobile", None, STAGES, marks=pytest.mark.slow),
    pytest.param("DenseNet121", 32, CONVS, marks=pytest.mark.slow),
    pytest.param("EfficientNetB0", 32, ["stem", *BLOCKS, "block6", "block7", "head"]),
    pytest.param(
        "EfficientNetV2B0", 32, ["stem", *BLOCKS, "block6", "head"], marks=pytest.mark.slow
    ),
    pytest.param("ConvNeXtTiny", 32, ["stem", "stage0", "stage1", "stage2", "stage3", "head"]),
]


def application(name, size):
    return getattr(keras.applications, name)(
        weights=None, include_top=False, input_shape=(size, size, 3)
    )


def feed_forward(x):
    return layers.Dense(4)(layers.Dense(8, activation="gelu")(x))


def encoder(blocks, norm_first):
    tokens, positions = keras.Input((6,), name="tokens"), keras.Input((6,), name="positions")
    x = layers.Embedding(9, 4, name="token")(tokens) + layers.Embedding(6, 4)(positions)
    for _ in range(blocks):
        for part in (lambda h: layers.MultiHeadAttention(2, 2)(h, h), feed_forward):
            if norm_first:
                x = layers.Add()([x, part(layers.LayerNormalization()(x))])
            else:
                x = layers.LayerNormalization()(layers.Add()([x, part(x)]))
    if norm_first:
        x = layers.LayerNormalization(name="last_norm")(x)
    x = layers.GlobalAveragePooling1D(name="pool")(x)
    return keras.Model([tokens, positions], layers.Dense(2, name="out")(x))


def image_and_text():
    image, text = keras.Input((32, 32, 3), name="image"), keras.Input((8,), name="text")
    x = image
    for n in range(3):
        x = layers.MaxPooling2D(name=f"pool{n}")(layers.Conv2D(2, 3, name=f"look{n}")(x))
    x = layers.Flatten(name="flat")(x)
    y = layers.LSTM(3, name="read")(layers.Embedding(9, 4, name="words")(text))
    z = layers.Dense(4, name="merged")(layers.Concatenate(name="join")([x, y]))
    tasks = [layers.Dense(3, name="species")(z), layers.Dense(1, name="age")(z)]
    return keras.Model([image, text], tasks)
