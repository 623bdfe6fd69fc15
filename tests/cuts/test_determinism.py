"""What may be cached: a judgement on every layer there is in `keras.layers`."""

import inspect

import keras
import pytest
from keras import layers, ops

from keras_freeze.cuts import determinism_rules
from keras_freeze.cuts.determinism import reason_against, reason_in_graph
from keras_freeze.cuts.determinism_rules import Setting
from keras_freeze.cuts.reasons import NoCut, Reason
from keras_freeze.keras_internals.graph import graph_nodes

FROZEN = Setting(trained=())

EVERY_CLASS = {
    value
    for value in vars(layers).values()
    if inspect.isclass(value) and issubclass(value, layers.Layer)
}
RANDOM, STATE, ACROSS_SAMPLES = Reason.RANDOM, Reason.STATE, Reason.ACROSS_SAMPLES
#: Of the classes that are not always the same function, an example and the reason.
REASONS = {
    "Dropout": (lambda: layers.Dropout(0.5), RANDOM),
    "AlphaDropout": (lambda: layers.AlphaDropout(0.5), RANDOM),
    "GaussianDropout": (lambda: layers.GaussianDropout(0.5), RANDOM),
    "SpatialDropout1D": (lambda: layers.SpatialDropout1D(0.5), RANDOM),
    "SpatialDropout2D": (lambda: layers.SpatialDropout2D(0.5), RANDOM),
    "SpatialDropout3D": (lambda: layers.SpatialDropout3D(0.5), RANDOM),
    "GaussianNoise": (lambda: layers.GaussianNoise(0.5), RANDOM),
    "Attention": (lambda: layers.Attention(dropout=0.5), RANDOM),
    "AdditiveAttention": (lambda: layers.AdditiveAttention(dropout=0.5), RANDOM),
    "LSTM, dropout": (lambda: layers.LSTM(2, dropout=0.5), RANDOM),
    "GRU, recurrent dropout": (lambda: layers.GRU(2, recurrent_dropout=0.5), RANDOM),
    "SimpleRNN, stateful": (
        lambda: layers.SimpleRNN(2, stateful=True),
        STATE,
    ),
    "RNN of a cell": (lambda: layers.RNN(layers.LSTMCell(2, dropout=0.5)), RANDOM),
    "RNN of cells": (
        lambda: layers.RNN([layers.GRUCell(2), layers.GRUCell(2, recurrent_dropout=0.5)]),
        RANDOM,
    ),
    "ConvLSTM2D": (lambda: layers.ConvLSTM2D(2, 3, dropout=0.5), RANDOM),
    "Bidirectional": (lambda: layers.Bidirectional(layers.LSTM(2, dropout=0.5)), RANDOM),
    "TimeDistributed": (lambda: layers.TimeDistributed(layers.Dropout(0.5)), RANDOM),
    "SpectralNormalization": (
        lambda: layers.SpectralNormalization(layers.Dense(2)),
        STATE,
    ),
    "BatchNormalization": (layers.BatchNormalization, STATE),
    "ActivityRegularization": (lambda: layers.ActivityRegularization(0.1), Reason.ADDS_LOSS),
    "RandomFlip": (layers.RandomFlip, RANDOM),
    "MixUp": (layers.MixUp, RANDOM),
    "Lambda": (lambda: layers.Lambda(lambda x: x), Reason.NOT_KNOWN),
    "StringLookup": (lambda: layers.Hashing(3), STATE),
    "axis 0": (lambda: layers.Concatenate(axis=0), ACROSS_SAMPLES),
    "a function of one's own": (
        lambda: layers.Dense(2, activation=lambda x: x),
        Reason.NOT_KNOWN,
    ),
    "a regularizer of the output": (
        lambda: layers.Dense(2, activity_regularizer="l2"),
        Reason.ADDS_LOSS,
    ),
}


def test_every_layer_of_keras_is_in_the_table():
    unknown = {cls.__name__ for cls in EVERY_CLASS} - set(determinism_rules.LAYERS)
    assert not unknown


def test_the_table_names_nothing_that_is_not_there():
    known = {cls.__name__ for cls in EVERY_CLASS} | {"Functional", "Model", "Sequential"}
    known |= set(determinism_rules.HUB_LAYERS) | {"ConvLSTMCell"}
    assert set(determinism_rules.LAYERS) <= known


@pytest.mark.parametrize("name", REASONS)
def test_a_reason_against(name):
    build, reason = REASONS[name]
    assert reason_against(build(), FROZEN).reason is reason


@pytest.mark.parametrize(
    "name", ["Dropout", "GaussianNoise", "LSTM, dropout", "SpectralNormalization", "Attention"]
)
def test_at_inference_there_is_none(name):
    setting = Setting(trained=(), inference=True, training_writes=False)
    assert reason_against(REASONS[name][0](), setting) is None


def test_augmentation_is_random_at_inference_too():
    # It is not part of what is pretrained.
    inference = Setting(trained=(), inference=True, training_writes=False)
    assert reason_against(layers.RandomFlip(), inference)


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
    found = reason_against(layer, FROZEN)
    assert found.reason is RANDOM
    assert "contains Dropout 'dropout', which is stochastic in training mode" in found.detail


def test_a_layer_that_trains_or_holds_one():
    inner = layers.Dense(2, name="inner")
    model = keras.Sequential([keras.Input((2,)), inner], name="net")
    trained = Setting({id(inner.kernel)})
    assert reason_against(inner, trained) == NoCut(Reason.TRAINS, "Dense 'inner' is trainable")
    assert reason_against(model, trained) == NoCut(Reason.TRAINS, "Sequential 'net' is trainable")


def test_a_class_that_derives_from_one_of_keras_is_not_judged():
    class Dense(layers.Dense):
        pass

    assert reason_against(Dense(2), FROZEN).reason is Reason.NOT_KNOWN


OPERATIONS = {
    "add": (lambda x: x + 1.0, None),
    "relu": (ops.relu, None),
    "first token": (lambda x: x[:, 0], None),
    "first of the last axis": (lambda x: x[..., 0], None),
    "first sample": (lambda x: x[0], ACROSS_SAMPLES),
    "every sample's mean": (lambda x: ops.mean(x, axis=-1), None),
    "the batch's mean": (lambda x: ops.mean(x, axis=0), ACROSS_SAMPLES),
    "the mean of all": (ops.mean, ACROSS_SAMPLES),
    "beside each other": (lambda x: ops.concatenate([x, x], axis=-1), None),
    "below each other": (lambda x: ops.concatenate([x, x], axis=0), ACROSS_SAMPLES),
    "axes swapped": (lambda x: ops.transpose(x, (0, 2, 1)), None),
    "all axes reversed": (ops.transpose, ACROSS_SAMPLES),
    "in reverse order": (lambda x: ops.flip(x, axis=0), Reason.NOT_KNOWN),
}


@pytest.mark.parametrize("name", OPERATIONS)
def test_operations_on_tensors(name):
    function, reason = OPERATIONS[name]
    inputs = keras.Input((3, 4))
    node = graph_nodes(keras.Model(inputs, function(inputs)))[-1]
    found = reason_in_graph(node, FROZEN)
    assert (found and found.reason) == reason
