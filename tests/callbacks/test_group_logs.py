"""What the logs tell of each group, compared with numpy, and warnings of sick gradients."""

import warnings

import keras
import numpy as np
import pytest

import keras_freeze as kf
from keras_freeze.callbacks.group_logs import effective_rank
from keras_freeze.keras_internals.gradients import loss_gradients
from keras_freeze.measures import rates_by_norms
from keras_freeze.policies import FreezeLayers
from keras_freeze.schedules import AfterSteps, FreezeSchedule, Phase

pytestmark = pytest.mark.backend

LAYERS = ("one", "two")
ROWS, BATCH = 12, 4


def build(scale=1.0, rate=0.0):
    keras.utils.set_random_seed(5)
    layers = keras.layers
    model = keras.Sequential(
        [
            keras.Input((6,)),
            layers.Dense(7, name="one"),
            layers.Rescaling(scale, name="scale"),
            layers.Dense(5, activation="tanh", name="two"),
            layers.Dense(3, name="head"),
        ]
    )
    model.compile(keras.optimizers.SGD(rate), "mse")
    return model


def data():
    rng = np.random.default_rng(1)
    x, y = rng.normal(size=(ROWS, 6)), rng.normal(size=(ROWS, 3))
    return x.astype("float32"), y.astype("float32")


def fit(model, details, schedule=None, y=None, epochs=2, rows=ROWS):
    plan = {0: None} if schedule is None else schedule
    callback = kf.FreezeScheduler(
        plan, backbone=list(LAYERS), cache=False, verbose=0, log_details=details
    )
    x, targets = data()
    return model.fit(
        x[:rows],
        targets if y is None else y,
        batch_size=BATCH,
        epochs=epochs,
        shuffle=False,
        verbose=0,
        callbacks=[callback],
    ).history


def test_gradient_norms_are_those_of_the_steps():
    model = build()
    x, y = data()
    variables = model.trainable_variables
    owners = [layer.name for layer in model.layers for _ in layer.trainable_variables]
    gradients, others = loss_gradients(model, variables)
    squares = dict.fromkeys(owners, 0.0)
    for begin in range(0, ROWS, BATCH):
        batch = [keras.ops.convert_to_tensor(a[begin : begin + BATCH]) for a in (x, y)]
        found, others = gradients(*batch, None, others)
        for owner, gradient in zip(owners, found, strict=True):
            squares[owner] += (keras.ops.convert_to_numpy(gradient) ** 2).sum()
    history = fit(model, ["gradients"])
    for name in (*LAYERS, "head"):
        expected = np.sqrt(squares[name] / (ROWS // BATCH))
        assert history[f"gradient_norm/{name}"] == pytest.approx([expected] * 2, rel=1e-3)
        assert history[f"update_ratio/{name}"] == [0.0, 0.0]
    assert "phase" not in history


@pytest.mark.slow_on_jax
def test_updates_are_those_of_the_epoch_and_of_groups_that_train():
    model = build(rate=0.1)
    before = [keras.ops.convert_to_numpy(w) for w in model.get_layer("two").weights]
    history = fit(model, ["gradients", "phase"], {0: 1}, epochs=1)
    after = [keras.ops.convert_to_numpy(w) for w in model.get_layer("two").weights]
    one, two = (np.concatenate([w.ravel() for w in look]) for look in (before, after))
    moved = np.linalg.norm(two - one) / np.linalg.norm(one)
    assert history["update_ratio/two"] == [pytest.approx(moved, rel=1e-3)]
    assert np.isnan([history["gradient_norm/one"], history["update_ratio/one"]]).all()
    assert history["phase"] == [0]


@pytest.mark.slow_on_jax
def test_each_epoch_has_a_value_of_each_group():
    plan = FreezeSchedule(
        [
            Phase(1, until=1),
            Phase(FreezeLayers(["one"]), weights="bias", until=AfterSteps(4)),
            Phase(FreezeLayers(["one"]), weights="kernel"),  # in the middle of the third epoch
        ]
    )
    with pytest.warns(UserWarning, match="flags of single variables"):
        history = fit(build(rate=0.1), ["gradients"], plan, epochs=4)
    known = {name: np.isfinite(values).tolist() for name, values in history.items()}
    assert known["gradient_norm/one"] == [False, True, True, True]
    assert known["update_ratio/one"] == [False, True, False, True]
    assert known["gradient_norm/two"] == known["update_ratio/two"] == [True] * 4


@pytest.mark.slow_on_jax
def test_the_norm_of_a_gradient_is_the_mean_over_those_that_are_finite():
    _, y = data()
    whole = fit(build(), ["gradients"], epochs=1, y=y[: 2 * BATCH], rows=2 * BATCH)
    y[2 * BATCH] = np.nan
    with pytest.warns(UserWarning, match="was not finite in step 3"):
        part = fit(build(), ["gradients"], epochs=1, y=y)
    for name in (*LAYERS, "head"):
        key = f"gradient_norm/{name}"
        assert part[key] == pytest.approx(whole[key], rel=1e-3)


@pytest.mark.slow_on_jax
def test_weights_have_a_norm_and_a_rank():
    model = build()
    kernel = np.zeros((6, 7), "float32")
    kernel[:3, :3] = 2 * np.eye(3)
    model.get_layer("one").set_weights([kernel, np.ones(7)])
    history = fit(model, ["weights"], epochs=1)
    assert history["weight_norm/one"] == [pytest.approx(np.sqrt(12 + 7))]
    assert history["effective_rank/one"] == [pytest.approx(3.0)]
    assert not any(name.startswith("gradient_norm") for name in history)


def warned(model, **arguments):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        fit(model, ["gradients"], **arguments)
    return [str(w.message) for w in caught if "FreezeScheduler: " in str(w.message)]


@pytest.mark.slow_on_jax
def test_vanishing_gradients_are_named_once():
    (message,) = warned(build(scale=1e-9), epochs=3)
    assert "gradients of one were below 1e-07 of the head's in each step of epoch 1" in message


def test_exploding_gradients_are_named_with_their_step():
    _, y = data()
    y[BATCH + 1] = 1e6
    found = warned(build(), y=y)
    assert len(found) == 3
    assert all("had a norm of" in text and "in step 2 of epoch 1" in text for text in found)
    assert all("clipnorm" in text for text in found)


@pytest.mark.slow_on_jax
def test_steps_are_those_of_the_epoch_also_for_groups_that_join_in_it():
    _, y = data()
    y[2 * BATCH] = 1e6
    plan = FreezeSchedule([Phase(["one", "two"], until=AfterSteps(1)), Phase()])
    found = warned(build(), y=y, schedule=plan, epochs=1)
    assert len(found) == 3
    assert all("in step 3 of epoch 1" in text for text in found)


@pytest.mark.slow_on_jax
def test_steps_that_are_skipped_are_said_so():
    _, y = data()
    y[:] = np.nan
    model = build()
    inner = keras.optimizers.SGD(0.0)
    model.compile(keras.optimizers.LossScaleOptimizer(inner, 2.0), "mse")
    (message,) = warned(model, y=y, epochs=1)
    assert "took a step in epoch 1. A LossScaleOptimizer skips each step" in message


@pytest.mark.slow_on_jax
def test_gradients_that_are_not_finite_are_named_with_their_step():
    _, y = data()
    y[2 * BATCH] = np.nan
    found = [text for text in warned(build(), y=y, epochs=1) if "gradient" in text]
    assert len(found) == 3
    assert all("was not finite in step 3 of epoch 1" in text for text in found)


def test_the_rank_of_what_is_not_finite_is_not_known():
    assert np.isnan(effective_rank(np.array([[1.0, np.nan], [0.0, 1.0]])))
    assert rates_by_norms({"a": np.nan, "b": 2.0, "c": 1.0}) == {"b": 1.0, "c": 0.5}
    assert rates_by_norms({"a": np.nan}) == rates_by_norms({"b": 0.0}) == {}
