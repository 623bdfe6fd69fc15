"""What a layer puts out, against models that end there, and layers that have no one output."""

import keras
import numpy as np
import pytest

from keras_freeze import explain

layers = keras.layers


def images(count=5):
    return np.random.default_rng(0).normal(size=(count, 8, 8, 2)).astype("float32")


@pytest.mark.backend
@pytest.mark.slow_on_jax
@pytest.mark.parametrize("batch_size", [2, 32])
def test_a_layer_of_a_nested_model(nested, unchanged, batch_size):
    model, x = nested(), images()
    model.compile("adam", "mse")
    with unchanged(model):
        found = explain.activations(model, x, "block1_relu", batch_size=batch_size)
    backbone = model.get_layer("backbone")
    end = keras.Model(backbone.input, backbone.get_layer("block1_relu").output)
    expected = keras.ops.convert_to_numpy(end(x, training=False))
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def test_the_layer_itself_and_several_inputs(multi_input, data_for):
    model = multi_input()
    x, _ = data_for(model, rows=3)
    found = explain.activations(model, x, model.get_layer("trunk"))
    end = keras.Model(model.inputs, model.get_layer("trunk").output)
    np.testing.assert_allclose(found, keras.ops.convert_to_numpy(end(x)), rtol=1e-5)


@pytest.mark.backend
@pytest.mark.slow_on_jax
def test_a_model_for_batches_of_a_certain_size_fills_up_the_last(unchanged):
    fixed = keras.Sequential(
        [keras.Input((5, 3), batch_size=4), layers.SimpleRNN(2, stateful=True, name="low")]
    )
    free = keras.Sequential([keras.Input((5, 3)), layers.SimpleRNN(2)])
    free.set_weights(fixed.get_weights())
    x = np.random.default_rng(0).normal(size=(6, 5, 3)).astype("float32")
    with unchanged(fixed):
        found = explain.activations(fixed, x, "low")
    np.testing.assert_allclose(found, free.predict(x, verbose=0), rtol=1e-4, atol=1e-6)


@pytest.mark.backend
def test_half_precision_comes_back_as_float32():
    model = keras.Sequential(
        [keras.Input((3,)), layers.Dense(2, name="low", dtype="mixed_float16"), layers.Dense(1)]
    )
    assert explain.activations(model, np.ones((2, 3)), "low").dtype == "float32"


def with_shared():
    inputs = keras.Input((4,))
    shared = layers.Dense(4, name="shared")
    return keras.Model(inputs, layers.Dense(1, name="top")(shared(shared(inputs))))


def with_states():
    inputs = keras.Input((5, 3))
    _, state, _ = layers.LSTM(2, return_state=True, name="lstm")(inputs)
    return keras.Model(inputs, state)


def with_two_of_a_name():
    inner = keras.Sequential([keras.Input((4,)), layers.Dense(4, name="low")], name="inner")
    return keras.Sequential([keras.Input((4,)), inner, layers.Dense(1, name="low")])


def in_steps():
    each = layers.TimeDistributed(layers.Dense(2, name="inside"), name="each")
    return keras.Sequential([keras.Input((5, 3)), each])


CASES = {
    "unknown": (with_shared, (4,), "shard", "be a layer of model .*Did you mean 'shared'"),
    "shared": (with_shared, (4,), "shared", "be called once .*'shared', which is called 2 times"),
    "states": (with_states, (5, 3), "lstm", r"return one array .*returns \(2, 2\)|\(1, 2\)"),
    "two of a name": (with_two_of_a_name, (4,), "low", "name of one layer .*'low', the name of 2"),
    "in steps": (in_steps, (5, 3), "inside", "called for each time step. Pass the layer around"),
    "no name": (with_shared, (4,), 1, "be a layer or its name. Received: layer=1"),
}


@pytest.mark.parametrize("case", CASES)
def test_a_layer_without_one_output_is_refused(case):
    build, shape, layer, message = CASES[case]
    with pytest.raises((TypeError, ValueError), match=rf"^explain.activations\(layer=.*{message}"):
        explain.activations(build(), np.ones((2, *shape), "float32"), layer)


def test_an_input_and_another_models_layer_are_refused(plain):
    model = plain()
    named = keras.Model(x := keras.Input((4,), name="x"), model(x))
    with pytest.raises(ValueError, match=r"be called when model .*'x', which is an input"):
        explain.activations(named, np.ones((2, 4)), "x")
    with pytest.raises(ValueError, match="Received: the layer 'low' of another model"):
        explain.activations(plain(), np.ones((2, 4)), model.get_layer("low"))


@pytest.mark.parametrize(
    ("x", "message"),
    [
        ([1.0, 2.0], "be an array of inputs, or a nest of arrays"),
        (np.ones((0, 4)), "have samples, as many in each array. Received: arrays of 0"),
        ({"a": np.ones((2, 4)), "b": np.ones((3, 4))}, "arrays of 2, 3"),
    ],
)
def test_inputs_that_are_no_samples_are_refused(plain, x, message):
    with pytest.raises((TypeError, ValueError), match=message):
        explain.activations(plain(), x, "low")
