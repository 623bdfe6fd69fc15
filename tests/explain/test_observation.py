"""What one call of a model shows, and that it leaves no trace in the model."""

import keras
import numpy as np
import pytest

from keras_freeze import explain
from keras_freeze.explain.observation import observe

layers = keras.layers


class Counted(layers.Layer):
    """Counts its calls and draws random numbers, in inference too."""

    def build(self, input_shape):
        self.count = self.add_weight(name="count", trainable=False, initializer="zeros")
        self.seeds = keras.random.SeedGenerator(1)

    def call(self, inputs):
        self.count.assign_add(1.0)
        return inputs + 0.01 * keras.random.normal(inputs.shape[1:], seed=self.seeds)


def counted():
    return keras.Sequential(
        [
            keras.Input((8, 8, 2)),
            Counted(),
            layers.Conv2D(3, 3, activation="relu", name="conv"),
            layers.GlobalAveragePooling2D(),
            layers.Dense(2, name="head"),
        ]
    )


LOOKS = {
    "activations": lambda model, x: explain.activations(model, x, "conv"),
    "heatmap": explain.heatmap,
    "activation_maximisation": lambda model, x: explain.activation_maximisation(
        model, "conv", 0, steps=2
    ),
    "similarity": lambda model, x: explain.similarity(model, model.get_weights(), x),
}


@pytest.mark.backend
@pytest.mark.slow_on_jax
@pytest.mark.parametrize("look", LOOKS)
def test_a_layer_that_counts_and_draws_is_left_as_it_was(look, unchanged):
    model, x = counted(), np.random.default_rng(0).normal(size=(8, 8, 8, 2)).astype("float32")
    with unchanged(model):
        LOOKS[look](model, x)


def test_layers_in_the_order_of_their_calls_without_what_runs_in_loops():
    inner = keras.Sequential([keras.Input((2,)), layers.Dense(2, name="low")], name="inner")
    model = keras.Sequential([keras.Input((3, 2)), layers.SimpleRNN(2, name="rnn"), inner])
    seen = observe(model, np.ones((4, 3, 2), "float32"))
    assert [layer.name for layer, _ in seen.calls] == ["rnn", "low", "inner"]
    assert seen.last_operation.name == "low"
    assert seen.samples == 1


def test_what_is_called_for_something_else_too_is_not_the_end():
    inputs = keras.Input((4,))
    shared = layers.Dense(4, activation="softmax", name="shared")
    model = keras.Model(inputs, shared(shared(inputs)))
    assert observe(model, np.ones((2, 4), "float32")).last_operation is None
