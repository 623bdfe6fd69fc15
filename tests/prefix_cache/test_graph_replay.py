"""Only a call of the model on the batch itself is replayed; any other computes everything."""

import cached
import keras
import numpy as np
import pytest
from cached import frozen, vectors
from keras import layers


def shared_backbone(again):
    def build():
        inner_in = keras.Input((4,))
        x = layers.Dense(4, activation="relu", name="low")(inner_in)
        inner = keras.Model(inner_in, layers.Dense(4, name="middle")(x), name="inner")
        one, many = keras.Input((4,)), keras.Input((3, 4))
        first = inner(one)
        for _ in range(3):  # so deep that it is called before the others
            first = layers.Rescaling(0.9)(first)
        pooled = layers.GlobalAveragePooling1D()(again(inner)(many))
        x = layers.Concatenate()([first, pooled])
        return keras.Model([one, many], layers.Dense(3, activation="softmax", name="head")(x))

    return frozen(build, layers=["low"])


class Each(layers.Layer):
    """Calls a model on each of three inputs."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def call(self, x):
        return keras.ops.stack([self.inner(x[:, n]) for n in range(3)], axis=1)


@pytest.mark.parametrize(
    "again", [Each, pytest.param(layers.TimeDistributed, marks=pytest.mark.slow)]
)
def test_a_model_that_is_cut_and_used_elsewhere_too(again):
    x, y = vectors()
    many = np.stack([x, x + 1.0, x * 2.0], axis=1)
    cached.compare(shared_backbone(again), ([x, many], y))
