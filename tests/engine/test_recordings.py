"""Sums of a training's own gradients, compared with gradients that are computed by hand."""

import keras
import numpy as np
import pytest

from keras_freeze.backup import archive
from keras_freeze.engine import recordings, snapshot, transition
from keras_freeze.keras_internals.gradients import loss_gradients
from keras_freeze.keras_internals.optimizers import DIALS, NORMS, SUMS
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
    transition(model, Flags(), {}, records=[SUMS])
    expected = by_hand(model)
    fit(model, epochs=2)
    assert_close(recordings.sums(model), expected, times=2)
    recordings.reset(model, SUMS, NORMS)
    fit(model)
    assert_close(recordings.sums(model), expected)


@pytest.mark.slow_on_jax
@pytest.mark.parametrize("make", [lambda: OPT.SGD(0.1), scaled], ids=["sgd", "scaled"])
@pytest.mark.at_commit("scaled")
def test_nothing_is_recorded_by_default_or_any_more(make):
    model = build(make())
    fit(model)
    count = len(model.optimizer.variables)
    names = set(vars(model.optimizer))
    assert recordings.sums(model) == {}
    transition(model, Flags(), {}, records=[SUMS])
    fit(model)
    assert recordings.sums(model)
    transition(model, Flags(), {})
    fit(model)
    assert recordings.sums(model) == {}
    assert len(model.optimizer.variables) == count
    assert "save_own_variables" not in set(vars(model.optimizer)) - names


def test_sums_are_carried_over_and_those_of_new_variables_begin_at_zero():
    model = build(OPT.SGD(0.0))
    low, head = model.layers[0], model.layers[-1]
    low.trainable = False
    transition(model, Flags(), {}, records=[SUMS])
    fit(model)
    before = recordings.sums(model)
    low.trainable = True
    transition(model, Flags())
    found = recordings.sums(model)
    assert found.keys() == {id(v) for v in model.trainable_variables}
    for variable in head.trainable_variables:
        np.testing.assert_array_equal(found[id(variable)], before[id(variable)])
    assert not found[id(low.trainable_variables[0])].any()


def test_sums_are_captured_and_restored(tmp_path):
    model, other = build(OPT.Adam(0.01)), build(OPT.Adam(0.01))
    transition(model, Flags(), {}, records=[SUMS])
    fit(model)
    with open(tmp_path / "state", "wb") as file:
        archive.write(file, snapshot.capture_all(model))
    snapshot.restore_all(other, archive.read(tmp_path / "state"), None)
    for mine, yours in zip(
        recordings.sums(model).values(), recordings.sums(other).values(), strict=True
    ):
        np.testing.assert_array_equal(mine, yours)
    for one in (model, other):
        fit(one)
    for mine, yours in zip(
        recordings.sums(model).values(), recordings.sums(other).values(), strict=True
    ):
        np.testing.assert_allclose(mine, yours, rtol=1e-6)


@pytest.mark.slow_on_jax
def test_training_is_the_same():
    plain, recorded = build(OPT.Adam(0.01)), build(OPT.Adam(0.01))
    transition(recorded, Flags(), {}, records=[SUMS])
    for model in (plain, recorded):
        fit(model, epochs=2)
    for one, two in zip(plain.weights, recorded.weights, strict=True):
        np.testing.assert_array_equal(*map(keras.ops.convert_to_numpy, (one, two)))


@pytest.mark.parametrize("make", [lambda: OPT.Adam(0.01), scaled], ids=["adam", "scaled"])
def test_files_are_those_of_plain_keras(make, tmp_path):
    model, plain = build(make()), build(make())
    fit(plain)
    transition(model, Flags(), {}, records=[SUMS])
    fit(model)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    kept = [v for v in model.optimizer.variables if "/gradient_sums_" not in v.path]
    assert len(loaded.optimizer.variables) == len(plain.optimizer.variables) == len(kept)
    for one, two in zip(kept, loaded.optimizer.variables, strict=True):
        np.testing.assert_array_equal(*map(keras.ops.convert_to_numpy, (one, two)))
    model.load_weights(tmp_path / "model.keras")


def test_norms_are_those_of_each_gradient():
    model = build(OPT.SGD(0.0, clipnorm=1e-3))
    transition(model, Flags(), {}, records=[NORMS])
    x, y = data()
    variables = model.trainable_variables
    gradients, others = loss_gradients(model, variables)
    squares = {id(v): [] for v in variables}
    for begin in range(0, len(x), 4):
        batch = [keras.ops.convert_to_tensor(a[begin : begin + 4]) for a in (x, y)]
        found, others = gradients(*batch, None, others)
        for variable, gradient in zip(variables, found, strict=True):
            squares[id(variable)].append(float((keras.ops.convert_to_numpy(gradient) ** 2).sum()))
    fit(model)
    for i, norms in recordings.norms(model).items():
        assert norms.steps == len(x) // 4
        assert norms.squares == pytest.approx(sum(squares[i]), rel=1e-4)
        assert norms.largest == pytest.approx(max(squares[i]), rel=1e-4)
        assert norms.largest_at == 1 + int(np.argmax(squares[i]))
        assert norms.not_finite_at == 0
    recordings.reset(model, SUMS, NORMS)
    assert {norms.steps for norms in recordings.norms(model).values()} == {0}


@pytest.mark.slow_on_jax
def test_the_first_gradient_that_is_not_finite_is_known():
    model = build(OPT.SGD(0.0))
    transition(model, Flags(), {}, records=[NORMS])
    x, y = data()
    y[5] = np.inf
    y[9] = np.nan
    model.fit(x, y, batch_size=4, shuffle=False, verbose=0)
    for norms in recordings.norms(model).values():
        assert (norms.finite, norms.steps, norms.not_finite_at) == (1, 3, 2)
        assert np.isfinite(norms.squares)


@pytest.mark.slow_on_jax
def test_dials_multiply_the_rate_and_its_weight_decay():
    halved, plain = (build(OPT.AdamW(rate, weight_decay=0.1)) for rate in (0.02, 0.01))
    transition(halved, Flags(), {}, records=[DIALS])
    recordings.set_dials(halved, {id(v): 0.5 for v in halved.trainable_variables})
    for model in (halved, plain):
        fit(model)
    assert set(recordings.dials(halved).values()) == {0.5}
    for one, two in zip(halved.weights, plain.weights, strict=True):
        arrays = map(keras.ops.convert_to_numpy, (one, two))
        np.testing.assert_allclose(*arrays, rtol=1e-5, atol=1e-7)
