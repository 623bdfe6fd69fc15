"""A temporary attribute of an object leaves nothing behind."""

import keras
import pytest

from keras_freeze.keras_internals.attributes import own_attribute


def test_a_method_is_replaced_and_restored():
    layer = keras.layers.ReLU()
    with own_attribute(layer, "call", "outer"):
        with own_attribute(layer, "call", "inner"):
            assert layer.call == "inner"
        assert layer.call == "outer"
    assert "call" not in vars(layer)


def test_also_after_an_error():
    layer = keras.layers.ReLU()
    with pytest.raises(KeyError), own_attribute(layer, "call", None):
        raise KeyError
    assert callable(layer.call)


def test_a_layer_is_not_tracked():
    outer = keras.Sequential([keras.Input((2,)), keras.layers.ReLU()])
    with own_attribute(outer, "extra", keras.layers.Dense(1)):
        assert len(outer.layers) == 1
