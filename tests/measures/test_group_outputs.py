"""Outputs of layer groups, compared with models that end there."""

import keras
import numpy as np
import pytest

from keras_freeze.groups import picture_of
from keras_freeze.measures import group_outputs

pytestmark = pytest.mark.backend
layers = keras.layers


def seeded(make):
    keras.utils.set_random_seed(3)
    return make()


def assert_equal(found, expected):
    joined = np.concatenate(found)
    expected = np.asarray(expected).reshape(-1, expected.shape[-1])
    np.testing.assert_allclose(joined, expected, rtol=1e-4, atol=1e-5)


def conv():
    backbone = keras.Sequential(
        [
            keras.Input((8, 8, 3)),
            layers.Conv2D(4, 3, name="block1_conv"),
            layers.Dropout(0.5, name="block1_drop"),
            layers.MaxPooling2D(name="block1_pool"),
            layers.Conv2D(5, 2, name="block2_conv"),
        ],
        name="backbone",
    )
    head = [layers.GlobalAveragePooling2D(name="pool"), layers.Dense(2, name="head")]
    return keras.Sequential([keras.Input((8, 8, 3)), backbone, *head])


def images(count=5):
    return np.random.default_rng(0).normal(size=(count, 8, 8, 3)).astype("float32")


def test_the_last_layer_of_a_group_in_a_nested_model():
    model, x = seeded(conv), images()
    found = group_outputs(picture_of(model, None, "backbone"), x, batch_size=2)
    assert [len(own) for own in found.values()] == [3] * 3
    assert [len(own) for own in found["head"]] == [1, 2, 2]
    backbone = model.get_layer("backbone")
    end = keras.Model(backbone.inputs, backbone.get_layer("block1_pool").output)
    one, two, head = found.values()  # the pooling layer belongs to the second
    assert_equal(one, end.predict(x, verbose=0))
    assert_equal(two, backbone.predict(x, verbose=0))
    assert_equal(head, model.predict(x, verbose=0))


@pytest.mark.slow_on_jax
def test_steps_that_are_masked_are_no_rows():
    def recurrent():
        return keras.Sequential(
            [
                keras.Input((6,), dtype="int32"),
                layers.Embedding(9, 3, mask_zero=True, name="embedding"),
                layers.LSTM(4, return_sequences=True, name="low"),
                layers.LSTM(2, name="high"),
                layers.Dense(1, name="head"),
            ]
        )

    model = seeded(recurrent)
    x = np.random.default_rng(0).integers(1, 9, (4, 6))
    x[:, 4:] = 0
    found = group_outputs(picture_of(model, None, ["embedding", "low", "high"]), x)
    low = keras.Model(model.inputs, model.get_layer("low").output)
    assert_equal(found["low"], low.predict(x, verbose=0)[:, :4])
    assert sum(map(len, found["high"])) == 4


def test_of_many_rows_the_same_are_drawn_each_time():
    model, x = seeded(conv), images(40)
    picture = picture_of(model, None, "backbone")
    one, two = (group_outputs(picture, x, max_rows=50) for _ in range(2))
    name = next(iter(one))
    assert sum(map(len, one[name])) == 50
    for a, b in zip(one[name], two[name], strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.slow_on_jax
@pytest.mark.slow_on_jax
def test_of_many_samples_some_are_drawn_and_no_batch_has_few_rows():
    model = keras.Sequential([keras.Input((1,)), layers.Rescaling(2.0), layers.Dense(1)])
    x = np.arange(40_001, dtype="float32")[:, None]
    found = group_outputs(picture_of(model, None, None), x)
    (rows, *_) = found.values()
    assert sum(map(len, rows)) == 4096
    assert min(map(len, rows)) >= 31
    kept = np.concatenate(rows).ravel()
    assert len(np.unique(kept)) == 4096


@pytest.mark.slow_on_jax
def test_a_model_for_batches_of_a_certain_size_gets_those():
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.Input((5, 3), batch_size=4),
            layers.LSTM(2, return_sequences=True, stateful=True, name="low"),
            layers.LSTM(2, stateful=True, name="high"),
            layers.Dense(1, name="head"),
        ]
    )
    picture = picture_of(model, None, None)
    x = np.random.default_rng(0).normal(size=(10, 5, 3)).astype("float32")
    found = group_outputs(picture, x)
    assert [len(rows) for rows in found["high"]] == [4, 4]
    assert_equal(found["head"][:1], keras.ops.convert_to_numpy(model(x[:4], training=False)))
    with pytest.raises(ValueError, match="don't fill a batch of 4"):
        group_outputs(picture, x[:3])


def test_nothing_in_the_model_changes():
    def stochastic():
        return keras.Sequential(
            [
                keras.Input((5, 3)),
                layers.Dense(4, name="low"),
                layers.BatchNormalization(name="norm"),
                layers.Dropout(0.5, name="drop"),
                layers.Flatten(name="flat"),
                layers.Dense(1, name="head"),
            ]
        )

    model = seeded(stochastic)
    before = [keras.ops.convert_to_numpy(v) for v in model.variables]
    group_outputs(picture_of(model, None, ["low", "norm"]), np.ones((4, 5, 3), "float32"))
    for variable, value in zip(model.variables, before, strict=True):
        np.testing.assert_array_equal(keras.ops.convert_to_numpy(variable), value)
    assert not [layer for layer in model.layers if "call" in vars(layer)]


@pytest.mark.slow_on_jax
def test_several_inputs_and_composite_layers():
    one, two = keras.Input((4, 6), name="one"), keras.Input((4, 6), name="two")
    attention = layers.MultiHeadAttention(2, 3, name="attention")
    mixed = attention(one, two)
    pooled = layers.GlobalAveragePooling1D(name="pool")(mixed)
    model = keras.Model([one, two], layers.Dense(1, name="head")(pooled))
    rng = np.random.default_rng(0)
    x = {"one": rng.normal(size=(3, 4, 6)), "two": rng.normal(size=(3, 4, 6))}
    found = group_outputs(picture_of(model, {"low": ["attention"], "head": ["pool", "head"]}), x)
    assert_equal(found["low"], keras.Model([one, two], mixed).predict(x, verbose=0))
