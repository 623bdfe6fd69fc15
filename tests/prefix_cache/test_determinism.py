"""What may be cached: a judgement on every layer there is in `keras.layers`."""

import inspect

import keras
import pytest
from keras import layers, ops

from keras_freeze.prefix_cache import determinism
from keras_freeze.prefix_cache.determinism import Setting, reason_against, reason_in_graph

FROZEN = Setting(trained=())

EVERY_CLASS = {
    value
    for value in vars(layers).values()
    if inspect.isclass(value) and issubclass(value, layers.Layer)
}
RANDOM = "draws random numbers"
OWN = "runs code that can't be judged"
TABLE = "keeps a table that is not a weight"
DROPS = "drops at random"
#: Of the classes that are not always the same function, an example and the reason.
REASONS = {
    "Dropout": (lambda: layers.Dropout(0.5), DROPS),
    "AlphaDropout": (lambda: layers.AlphaDropout(0.5), DROPS),
    "GaussianDropout": (lambda: layers.GaussianDropout(0.5), DROPS),
    "SpatialDropout1D": (lambda: layers.SpatialDropout1D(0.5), DROPS),
    "SpatialDropout2D": (lambda: layers.SpatialDropout2D(0.5), DROPS),
    "SpatialDropout3D": (lambda: layers.SpatialDropout3D(0.5), DROPS),
    "GaussianNoise": (lambda: layers.GaussianNoise(0.5), "adds noise"),
    "Attention": (lambda: layers.Attention(dropout=0.5), DROPS),
    "AdditiveAttention": (lambda: layers.AdditiveAttention(dropout=0.5), DROPS),
    "LSTM, dropout": (lambda: layers.LSTM(2, dropout=0.5), DROPS),
    "GRU, recurrent dropout": (lambda: layers.GRU(2, recurrent_dropout=0.5), DROPS),
    "SimpleRNN, stateful": (
        lambda: layers.SimpleRNN(2, stateful=True),
        "keeps a state from batch to batch",
    ),
    "RNN of a cell": (lambda: layers.RNN(layers.LSTMCell(2, dropout=0.5)), DROPS),
    "RNN of cells": (
        lambda: layers.RNN([layers.GRUCell(2), layers.GRUCell(2, recurrent_dropout=0.5)]),
        DROPS,
    ),
    "ConvLSTM2D": (lambda: layers.ConvLSTM2D(2, 3, dropout=0.5), DROPS),
    "Bidirectional": (lambda: layers.Bidirectional(layers.LSTM(2, dropout=0.5)), DROPS),
    "TimeDistributed": (lambda: layers.TimeDistributed(layers.Dropout(0.5)), DROPS),
    "SpectralNormalization": (
        lambda: layers.SpectralNormalization(layers.Dense(2)),
        "updates a vector as it trains",
    ),
    "BatchNormalization": (layers.BatchNormalization, "updates its statistics"),
    "ActivityRegularization": (lambda: layers.ActivityRegularization(0.1), "adds a loss"),
    "RandomFlip": (layers.RandomFlip, RANDOM),
    "MixUp": (layers.MixUp, RANDOM),
    "Lambda": (lambda: layers.Lambda(lambda x: x), OWN),
    "StringLookup": (lambda: layers.Hashing(3), TABLE),
    "axis 0": (lambda: layers.Concatenate(axis=0), "works across samples"),
    "a function of one's own": (
        lambda: layers.Dense(2, activation=lambda x: x),
        "has an activation that can't be judged",
    ),
    "a regularizer of the output": (
        lambda: layers.Dense(2, activity_regularizer="l2"),
        "adds a loss",
    ),
}


def test_every_layer_of_keras_is_in_the_table():
    unknown = {cls.__name__ for cls in EVERY_CLASS} - set(determinism.LAYERS)
    assert not unknown


def test_the_table_names_nothing_that_is_not_there():
    known = {cls.__name__ for cls in EVERY_CLASS} | {"Functional", "Model", "Sequential"}
    known |= set(determinism._HUB) | {"ConvLSTMCell"}
    assert set(determinism.LAYERS) <= known


@pytest.mark.parametrize("name", REASONS)
def test_a_reason_against(name):
    build, reason = REASONS[name]
    assert reason in reason_against(build(), FROZEN)


@pytest.mark.parametrize(
    "name", ["Dropout", "GaussianNoise", "LSTM, dropout", "SpectralNormalization", "Attention"]
)
def test_at_inference_there_is_none(name):
    assert reason_against(REASONS[name][0](), Setting(trained=(), inference=True)) is None


def test_augmentation_is_random_at_inference_too():
    # It is not part of what is pretrained.
    assert reason_against(layers.RandomFlip(), Setting(trained=(), inference=True))


QUIET = [
    layers.Dropout(0.0),
    layers.LSTM(2),
    layers.Bidirectional(layers.GRU(2)),
    layers.MultiHeadAttention(2, 2),
    layers.BatchNormalization(trainable=False),
    layers.TimeDistributed(layers.Dense(2)),
    keras.Sequential([keras.Input((2,)), layers.Dense(2), layers.ReLU()]),
]


@pytest.mark.parametrize("layer", QUIET, ids=lambda layer: type(layer).__name__)
def test_the_same_function_each_time(layer):
    assert reason_against(layer, FROZEN) is None


def test_attention_drops_by_a_layer_inside():
    layer = layers.MultiHeadAttention(2, 2, dropout=0.5)
    layer.build((None, 3, 4), (None, 3, 4))
    assert DROPS in reason_against(layer, FROZEN)


def test_a_layer_that_trains_or_holds_one():
    inner = layers.Dense(2, name="inner")
    model = keras.Sequential([keras.Input((2,)), inner], name="net")
    trained = Setting({id(inner.kernel)})
    assert reason_against(inner, trained) == "Dense 'inner' trains"
    assert reason_against(model, trained) == "Sequential 'net' trains"


def test_a_class_that_derives_from_one_of_keras_is_not_judged():
    class Dense(layers.Dense):
        pass

    assert "can't be judged" in reason_against(Dense(2), FROZEN)


OPERATIONS = {
    "add": (lambda x: x + 1.0, None),
    "relu": (ops.relu, None),
    "first token": (lambda x: x[:, 0], None),
    "first of the last axis": (lambda x: x[..., 0], None),
    "first sample": (lambda x: x[0], "picks samples"),
    "every sample's mean": (lambda x: ops.mean(x, axis=-1), None),
    "the batch's mean": (lambda x: ops.mean(x, axis=0), "works across samples"),
    "the mean of all": (ops.mean, "works across samples"),
    "beside each other": (lambda x: ops.concatenate([x, x], axis=-1), None),
    "below each other": (lambda x: ops.concatenate([x, x], axis=0), "works across samples"),
    "axes swapped": (lambda x: ops.transpose(x, (0, 2, 1)), None),
    "all axes reversed": (ops.transpose, "works across samples"),
    "in reverse order": (lambda x: ops.flip(x, axis=0), "can't be judged"),
}


@pytest.mark.parametrize("name", OPERATIONS)
def test_operations_on_tensors(name):
    function, reason = OPERATIONS[name]
    output = function(keras.Input((3, 4)))
    node = output._keras_history[0]._inbound_nodes[0]
    found = reason_in_graph(node, FROZEN)
    assert found is None if reason is None else reason in found
