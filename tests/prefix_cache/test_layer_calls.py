"""Subclassed models are cut at the calls of their own layers."""

import cached
import keras
import numpy as np
import pytest
from cached import on_tensorflow, vectors
from keras import layers


class Subclassed(keras.Model):
    """A model without a graph: its own code between a backbone and a head."""

    def __init__(self, rate=0.0, again=0.0):
        super().__init__()
        self.again = again
        self.backbone = keras.Sequential(
            [
                keras.Input((4,)),
                layers.Dense(6, activation="relu", name="low"),
                layers.Dropout(rate),
                layers.Dense(6, activation="relu", name="middle"),
            ],
            name="backbone",
        )
        self.second = layers.Dense(6, name="second")
        self.head = layers.Dense(3, activation="softmax", name="head")

    def call(self, x, training=None):
        deep = self.second(self.backbone(x, training=False)) + 1.0
        if self.again:
            deep += self.again * self.backbone(x * 0.5, training=False)
        return self.head(deep)


def subclassed(*names, rate=0.0, again=0.0):
    def build():
        model = Subclassed(rate, again)
        model(np.zeros((1, 4), "float32"))
        for name in names:
            owner = model.backbone.get_layer if name in ("low", "middle") else model.get_layer
            owner(name).trainable = False
        return model

    return build


@pytest.mark.slow_on_jax
@pytest.mark.backend
@pytest.mark.parametrize(
    "names",
    [
        ("low",),
        pytest.param(("low", "middle"), marks=pytest.mark.slow),
        ("low", "middle", "second"),
    ],
    ids="-".join,
)
def test_a_subclassed_model(names):
    cached.compare(subclassed(*names), vectors())


@pytest.mark.slow_on_jax
@pytest.mark.backend
@pytest.mark.parametrize(
    "names", [pytest.param(("low",), marks=pytest.mark.slow), ("low", "middle")], ids="-".join
)
def test_only_the_call_on_the_batch_itself_is_served(names):
    # The graph of the step is another one then, and TensorFlow may round otherwise.
    cached.compare(subclassed(*names, again=2.0), vectors(), exact=False)


def test_a_backbone_called_in_inference_mode_drops_nothing():
    cached.compare(subclassed("low", "middle", rate=0.5), vectors())


def test_a_subclassed_model_without_anything_to_keep():
    statistics = cached.compare(subclassed("second"), vectors(), expect_hits=False)
    assert statistics.misses == 0


@pytest.mark.slow
@on_tensorflow
def test_what_a_models_own_code_counts_is_counted_once():
    class Counting(Subclassed):
        def __init__(self):
            super().__init__()
            self.seen = self.add_weight(shape=(), dtype="int32", trainable=False, name="seen")
            self.seeds = keras.random.SeedGenerator(3)

        def build(self, shape):
            for layer in (self.second, self.head):
                layer.build((None, 6))

        def call(self, x, training=None):
            self.seen.assign_add(1)
            x = self.backbone(x, training=False)
            return self.head(self.second(x) + keras.random.normal((1, 6), seed=self.seeds))

    def build():
        model = Counting()
        model(np.zeros((1, 4), "float32"))
        model.backbone.trainable = False
        return model

    cached.compare(build, vectors())


@pytest.mark.slow
def test_texts_of_different_length():
    import tensorflow as tf

    class Reader(keras.Model):
        def __init__(self):
            super().__init__()
            self.embedding = layers.Embedding(11, 4, mask_zero=True)
            self.lstm = layers.LSTM(4, return_sequences=True)
            self.last = layers.LSTM(3)
            self.head = layers.Dense(3, activation="softmax")

        def call(self, x):
            return self.head(self.last(self.lstm(self.embedding(x))))

    def build():
        model = Reader()
        model(np.ones((1, 3), "int32"))
        for layer in (model.embedding, model.lstm):
            layer.trainable = False
        return model

    def data():
        rng = np.random.default_rng(0)
        rows = [rng.integers(1, 11, n).astype("int32") for n in (3, 4, 3, 5, 6, 2, 4, 4, 7)]
        texts = tf.data.Dataset.from_generator(
            lambda: iter(zip(rows, range(9), strict=True)),
            output_signature=(tf.TensorSpec((None,), tf.int32), tf.TensorSpec((), tf.int32)),
        )
        return (
            texts.map(lambda x, y: (x, y % 3))
            .padded_batch(3)
            .apply(tf.data.experimental.assert_cardinality(3))
        )

    statistics = cached.compare(build, data(), shuffle=False)
    assert statistics.hits == 18
