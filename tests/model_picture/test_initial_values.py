"""Layers that nothing has trained are recognized by what is the same in every new layer."""

import keras
import numpy as np
import pytest
from keras import layers

from keras_freeze.model_picture import all_untouched, read_model, weights_of, with_initial_values

pytestmark = pytest.mark.backend


def constant():
    return layers.Dense(3, bias_initializer=keras.initializers.Constant(0.1))


JUDGED = {
    "dense": lambda: (keras.Input((4,)), layers.Dense(3)),
    "constant": lambda: (keras.Input((4,)), constant()),
    "ones": lambda: (keras.Input((4,)), layers.Dense(3, bias_initializer="ones")),
    "convolution": lambda: (keras.Input((8, 2)), layers.Conv1D(3, 3), layers.Flatten()),
    "half": lambda: (keras.Input((4,)), layers.Dense(3, dtype="float16")),
    "lstm": lambda: (keras.Input((5, 4)), layers.LSTM(3)),
    "lstm of zeros": lambda: (keras.Input((5, 4)), layers.LSTM(3, unit_forget_bias=False)),
    "lstm of convolutions": lambda: (keras.Input((3, 6, 2)), layers.ConvLSTM1D(3, 2)),
    "bidirectional": lambda: (keras.Input((5, 4)), layers.Bidirectional(layers.LSTM(3))),
    "gru": lambda: (keras.Input((5, 4)), layers.GRU(3)),
    "norm": lambda: (keras.Input((4,)), layers.BatchNormalization()),
    "bare norm": lambda: (keras.Input((4,)), layers.BatchNormalization(center=False, scale=False)),
    "over time": lambda: (keras.Input((5, 4)), layers.TimeDistributed(layers.Dense(3))),
}


@pytest.mark.parametrize("build", JUDGED.values(), ids=JUDGED)
def test_a_new_layer_is_untouched_and_a_changed_one_is_not(build):
    inputs, *made = build()
    model = keras.Sequential([inputs, *made, layers.Dense(2)])
    picture = with_initial_values(read_model(model))
    assert all_untouched(picture, made)
    names = ("bias", "moving_mean")
    changed = next(w.variable for w in weights_of(made[0]) if w.variable.name in names)
    value = np.array(keras.ops.convert_to_numpy(changed.value))
    value.flat[-1] += 0.5
    changed.assign(value)
    assert not all_untouched(with_initial_values(read_model(model)), made)


@pytest.mark.parametrize(
    "build",
    [
        lambda: layers.Dense(3, use_bias=False),
        lambda: layers.Dense(3, bias_initializer="random_normal"),
        lambda: layers.EinsumDense("ab,bc->ac", 3),
    ],
    ids=["no bias", "random bias", "einsum"],
)
def test_what_can_not_be_judged_is_not_untouched(build):
    layer = build()
    model = keras.Sequential([keras.Input((4,)), layer, layers.Dense(2)])
    assert not all_untouched(with_initial_values(read_model(model)), [layer])


def test_layers_are_untouched_together_or_not():
    model = keras.Sequential([keras.Input((4,)), layers.Dense(3), layers.Dense(2), layers.Dense(2)])
    model.layers[1].bias.assign([0.5, 0.0])
    picture = with_initial_values(read_model(model))
    assert all_untouched(picture, model.layers[:1])
    assert not all_untouched(picture, model.layers[:2])


def test_a_batch_norm_is_judged_by_its_statistics():
    """A step with frozen statistics trains gamma and beta, and shows the layer no data."""
    norm = layers.BatchNormalization()
    model = keras.Sequential([keras.Input((4,)), norm, layers.Dense(2)])
    norm.beta.assign([1.0, 2.0, 3.0, 4.0])
    assert all_untouched(with_initial_values(read_model(model)), [norm])
