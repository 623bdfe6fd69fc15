"""Optimizers are found wherever a model holds them."""

import types

import keras
import pytest

from keras_freeze.model_picture import own_optimizers

pytestmark = pytest.mark.backend


def model():
    net = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
    net.compile("sgd", "mse")
    return net


@pytest.mark.parametrize(
    "hold",
    [
        lambda pair: {"both": {"low": pair[0], "head": pair[1]}},
        lambda pair: {"both": {"all": pair}},
        lambda pair: types.SimpleNamespace(low=pair[0], head=pair[1]),
    ],
    ids=["dicts", "a list in a dict", "a namespace"],
)
def test_in_containers(hold):
    net, pair = model(), [keras.optimizers.SGD(), keras.optimizers.SGD()]
    net.held = hold(pair)
    assert {id(x) for x in own_optimizers(net).values()} == set(map(id, pair))


def test_of_a_class_and_not_what_it_overrides():
    first, second = keras.optimizers.SGD(), keras.optimizers.SGD()

    class Base(keras.Model):
        another = first

    class Derived(Base):
        another = second

    inputs = keras.Input((3,))
    net = Derived(inputs, keras.layers.Dense(2)(inputs))
    net.compile("sgd", "mse")
    assert own_optimizers(net) == {"another": second}
