"""Sums of a training's own gradients, compared with gradients that are computed by hand."""

import keras
import numpy as np
import pytest

from keras_freeze.backup import archive
from keras_freeze.engine import gradient_sums, snapshot, transition
from keras_freeze.keras_internals.gradients import loss_gradients
from keras_freeze.policies import Flags

pytestmark = pytest.mark.backend
OPT = keras.optimizers


def scaled():
    return OPT.LossScaleOptimizer(OPT.SGD(0.0), initial_scale=64.0)


OPTIMIZERS = {
    "sgd": lambda: OPT.SGD(0.0),
    "clipped": lambda: OPT.Adam(0.0, clipnorm=1e-3),
    "accumulated": lambda: OPT.SGD(0.0, gradient_accumulation_steps=2),
    "scaled": scaled,
}


def build(optimizer):
    keras.utils.set_random_seed(0)
    layers = keras.layers
    model = keras.Sequential(
        [
            keras.Input((5,), dtype="int32"),
            layers.Embedding(9, 4, name="low"),
            layers.Flatten(name="flat"),
            layers.Dense(3, name="head"),
        ]
    )
    model.compile(optimizer, "mse")
    return model


def data(rows=12):
    rng = np.random.default_rng(0)
    return rng.integers(0, 9, (rows, 5)), rng.normal(size=(rows, 3)).astype("float32")


def fit(model, epochs=1):
    x, y = data()
    model.fit(x, y, batch_size=4, epochs=epochs, shuffle=False, verbose=0)


def by_hand(model):
    """Add up the gradients of each batch; no weight moves, since the rate is 0."""
    x, y = data()
    variables = model.trainable_variables
    gradients, others = loss_gradients(model, variables)
    totals = [np.zeros(v.shape) for v in variables]
    for begin in range(0, len(x), 4):
        rows = slice(begin, begin + 4)
        batch = keras.ops.convert_to_tensor(x[rows]), keras.ops.convert_to_tensor(y[rows])
        found, others = gradients(*batch, None, others)
        totals = [t + keras.ops.convert_to_numpy(g) for t, g in zip(totals, found, strict=True)]
    return {id(v): total for v, total in zip(variables, totals, strict=True)}


def assert_close(found, expected, times=1):
    assert found.keys() == expected.keys()
    for i, total in expected.items():
        np.testing.assert_allclose(found[i], times * total, rtol=1e-4, atol=1e-6)


@pytest.mark.at_commit("clipped", "scaled")
@pytest.mark.parametrize("make", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_every_batch_counts_unscaled_and_before_clipping(make):
    model = build(make())
    transition(model, Flags(), {}, sums=True)
    expected = by_hand(model)
    fit(model, epochs=2)
    assert_close(gradient_sums.read(model), expected, times=2)
    gradient_sums.reset(model)
    fit(model)
    assert_close(gradient_sums.read(model), expected)


@pytest.mark.slow_on_jax
@pytest.mark.parametrize("make", [lambda: OPT.SGD(0.1), scaled], ids=["sgd", "scaled"])
def test_nothing_is_recorded_by_default_or_any_more(make):
    model = build(make())
    fit(model)
    count = len(model.optimizer.variables)
    names = set(vars(model.optimizer))
    assert gradient_sums.read(model) == {}
    transition(model, Flags(), {}, sums=True)
    fit(model)
    assert gradient_sums.read(model)
    transition(model, Flags(), {})
    fit(model)
    assert gradient_sums.read(model) == {}
    assert len(model.optimizer.variables) == count
    assert "save_own_variables" not in set(vars(model.optimizer)) - names


def test_sums_are_carried_over_and_those_of_new_variables_begin_at_zero():
    model = build(OPT.SGD(0.0))
    low, head = model.layers[0], model.layers[-1]
    low.trainable = False
    transition(model, Flags(), {}, sums=True)
    fit(model)
    before = gradient_sums.read(model)
    low.trainable = True
    transition(model, Flags())
    found = gradient_sums.read(model)
    assert found.keys() == {id(v) for v in model.trainable_variables}
    for variable in head.trainable_variables:
        np.testing.assert_array_equal(found[id(variable)], before[id(variable)])
    assert not found[id(low.trainable_variables[0])].any()


def test_sums_are_captured_and_restored(tmp_path):
    model, other = build(OPT.Adam(0.01)), build(OPT.Adam(0.01))
    transition(model, Flags(), {}, sums=True)
    fit(model)
    with open(tmp_path / "state", "wb") as file:
        archive.write(file, snapshot.capture_all(model))
    snapshot.restore_all(other, archive.read(tmp_path / "state"), None)
    for mine, yours in zip(
        gradient_sums.read(model).values(), gradient_sums.read(other).values(), strict=True
    ):
        np.testing.assert_array_equal(mine, yours)
    for one in (model, other):
        fit(one)
    for mine, yours in zip(
        gradient_sums.read(model).values(), gradient_sums.read(other).values(), strict=True
    ):
        np.testing.assert_allclose(mine, yours, rtol=1e-6)


@pytest.mark.slow_on_jax
def test_training_is_the_same():
    plain, recorded = build(OPT.Adam(0.01)), build(OPT.Adam(0.01))
    transition(recorded, Flags(), {}, sums=True)
    for model in (plain, recorded):
        fit(model, epochs=2)
    for one, two in zip(plain.weights, recorded.weights, strict=True):
        np.testing.assert_array_equal(*map(keras.ops.convert_to_numpy, (one, two)))


@pytest.mark.parametrize("make", [lambda: OPT.Adam(0.01), scaled], ids=["adam", "scaled"])
def test_files_are_those_of_plain_keras(make, tmp_path):
    model, plain = build(make()), build(make())
    fit(plain)
    transition(model, Flags(), {}, sums=True)
    fit(model)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    kept = [v for v in model.optimizer.variables if "/sum_" not in v.path]
    assert len(loaded.optimizer.variables) == len(plain.optimizer.variables) == len(kept)
    for one, two in zip(kept, loaded.optimizer.variables, strict=True):
        np.testing.assert_array_equal(*map(keras.ops.convert_to_numpy, (one, two)))
    model.load_weights(tmp_path / "model.keras")
