"""What reaches the first convolution of a backbone, and what stands before it."""

import keras
import numpy as np
import pytest
from keras import layers

from keras_freeze.findings.backbone_input import images_before
from keras_freeze.groups import picture_of

IMAGES = np.random.default_rng(0).uniform(100, 200, (2, 6, 6, 3)).astype("float32")


def build(*before):
    inputs = x = keras.Input((6, 6, 3))
    for layer in before:
        x = layer(x)
    x = layers.Conv2D(2, 3, name="conv")(x)
    outputs = layers.Dense(2, name="top")(layers.GlobalAveragePooling2D()(x))
    return picture_of(keras.Model(inputs, outputs), None, "conv")


@pytest.mark.backend
def test_each_scaling_is_a_stage_and_padding_is_none():
    picture = build(
        layers.Rescaling(1 / 255), layers.ZeroPadding2D(1), layers.Rescaling(2.0, offset=-1.0)
    )
    seen = images_before(picture, keras.ops.convert_to_tensor(IMAGES))
    assert seen.letters == "RR"
    np.testing.assert_allclose(seen.stages[2], IMAGES, rtol=1e-6)
    np.testing.assert_allclose(seen.stages[1], IMAGES / 255, rtol=1e-6)  # without the zeros
    assert seen.stages[0].shape == (2, 8, 8, 3)
    assert seen.stages[0].min() == -1.0


def test_a_model_without_convolutions_has_none():
    model = keras.Sequential([keras.Input((4,)), *(layers.Dense(2, name=n) for n in "ab")])
    assert images_before(picture_of(model, None, "a"), keras.ops.ones((2, 4))) is None
