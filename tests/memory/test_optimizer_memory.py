"""What an optimizer would hold is what it holds once it is built; finding out changes nothing."""

import keras
import numpy as np
import optimizer_table
import pytest
from keras import layers

import keras_freeze as kf
from keras_freeze.keras_internals.optimizer_sketch import sketched_state
from keras_freeze.memory.activations import NotKnown
from keras_freeze.memory.optimizer_memory import optimizer_bytes
from keras_freeze.model_picture import bytes_of

pytestmark = pytest.mark.backend


def build():
    model = keras.Sequential(
        [
            keras.Input((6, 6, 2)),
            layers.Conv2D(3, 3, name="conv"),
            layers.BatchNormalization(name="norm"),
            layers.Flatten(),
            layers.Dense(5, name="head"),
        ]
    )
    model.compile(keras.optimizers.Adam(), "mse")
    return model


def estimate(model):
    return optimizer_bytes(model, {id(v) for v in model.trainable_variables})


def state(optimizer):
    """Return what is in an optimizer, down to the identity of each part."""
    own = {name: value for name, value in vars(optimizer).items() if name[:5] != "_self"}
    lists = {name: list(map(id, value)) for name, value in own.items() if isinstance(value, list)}
    others = {name: id(value) for name, value in own.items() if not isinstance(value, (list, dict))}
    indices = dict(optimizer._trainable_variables_indices)
    return others, lists, indices, [id(v) for v in optimizer.variables]


@pytest.mark.parametrize("name", optimizer_table.cases(optimizer_table.ALL))
def test_the_estimate_is_what_the_built_optimizer_holds(name):
    model = build()
    model.compile(optimizer_table.ALL[name](), "mse")
    before = state(model.optimizer)
    unbuilt = estimate(model)
    assert state(model.optimizer) == before
    whole = list(model.trainable_variables)
    model.optimizer.build(whole)
    assert unbuilt == sum(map(bytes_of, model.optimizer.variables)) == estimate(model)
    # Built for everything, and asked about a part of it: what another one would hold for that.
    part = {id(v) for v in model.get_layer("head").weights}
    before = state(model.optimizer)
    values = [np.array(keras.ops.convert_to_numpy(v)) for v in model.optimizer.variables]
    found = optimizer_bytes(model, part)
    assert state(model.optimizer) == before
    for variable, value in zip(model.optimizer.variables, values, strict=True):
        assert np.array_equal(keras.ops.convert_to_numpy(variable), value)
    other = optimizer_table.ALL[name]()
    other.build(list(model.get_layer("head").weights))
    assert found == sum(map(bytes_of, other.variables))


SLOTS = {"SGD": 0, "Lion": 1, "Adam": 2}


@pytest.mark.parametrize("name", SLOTS)
def test_slots_for_what_trains(name):
    model = build()
    model.compile(getattr(keras.optimizers, name)(), "mse")
    kf.freeze(model, layers=["conv", "norm"])
    head = (4 * 4 * 3 * 5 + 5) * 4
    counters = sum(map(bytes_of, getattr(keras.optimizers, name)().variables))
    assert estimate(model) == SLOTS[name] * head + counters


def test_nothing_is_made_for_large_variables():
    model = build()
    found = sketched_state(model.optimizer, model.trainable_variables)
    made = [v for v in found if isinstance(v, keras.Variable)]
    assert {v.name for v in made} == {"iteration", "learning_rate"}


def test_a_model_without_an_optimizer():
    model = keras.Sequential([keras.Input((2,)), layers.Dense(2)])
    assert estimate(model) == NotKnown("the model is not compiled")


def test_a_build_that_needs_values_is_said_and_undone():
    class Needy(keras.optimizers.SGD):
        def build(self, variables):
            super().build(variables)
            slot = self.add_variable(shape=(2,), name="needy")
            slot.assign([1.0, 2.0])

    model = build()
    model.compile(Needy(), "mse")
    before = state(model.optimizer)
    found = estimate(model)
    assert found.reason.startswith("Needy can't be built without its variables: ")
    assert state(model.optimizer) == before


def test_a_model_with_two_optimizers_has_the_state_of_both():
    class Two(keras.Sequential):
        def __init__(self, *args, **settings):
            super().__init__(*args, **settings)
            self.other = keras.optimizers.SGD(momentum=0.9)

    model = Two([keras.Input((2,)), layers.Dense(3, name="low"), layers.Dense(2, name="head")])
    model.other.build(list(model.get_layer("low").weights))
    model.compile(keras.optimizers.Adam(), "mse")
    model.optimizer.build(list(model.get_layer("head").weights))
    trained = {id(v) for v in model.trainable_variables}
    held = [*model.other.variables, *model.optimizer.variables]
    assert optimizer_bytes(model, trained) == sum(map(bytes_of, held))
