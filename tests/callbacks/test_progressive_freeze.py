"""`ProgressiveFreeze`: its calendar and its rates, compared with a training by hand."""

import math

import keras
import numpy as np
import pytest
from effects import values

import keras_freeze as kf
from keras_freeze.keras_internals.gradients import loss_gradients

pytestmark = pytest.mark.backend

LAYERS = ("one", "two", "three")
RATE, ROWS, BATCH, EPOCHS = 0.1, 20, 4, 4
STEPS = ROWS // BATCH * EPOCHS


def build(optimizer=None):
    keras.utils.set_random_seed(5)
    layers = keras.layers
    model = keras.Sequential(
        [
            keras.Input((6,)),
            *[layers.Dense(7, activation="tanh", name=name) for name in LAYERS],
            layers.Dense(3, name="head"),
        ]
    )
    model.compile(optimizer or keras.optimizers.SGD(RATE), "mse")
    return model


def data():
    rng = np.random.default_rng(1)
    return rng.normal(size=(ROWS, 6)).astype("float32"), rng.normal(size=(ROWS, 3)).astype(
        "float32"
    )


def progressive(**arguments):
    arguments = {"backbone": list(LAYERS), "cache": False, "verbose": 0, **arguments}
    return kf.ProgressiveFreeze(**arguments)


def fit(model, *callbacks, **arguments):
    x, y = data()
    settings = {"batch_size": BATCH, "epochs": EPOCHS, "shuffle": False, "verbose": 0}
    return model.fit(x, y, **{**settings, **arguments}, callbacks=list(callbacks))


def rate_by_paper(i, step, first, shape, scales):
    """The rate of layer group `i` of 4, by the formulas of FreezeOut; 0 once it is frozen."""
    part = shape(first + (1 - first) * i / 3)
    highest = RATE / part if scales else RATE
    if step >= round(part * STEPS):
        return 0.0
    return 0.5 * highest * (1 + math.cos(math.pi * min(1.0, step / STEPS / part)))


CASES = {
    "defaults": (0.8, lambda u: u**3, True, {}),
    "linear": (0.5, lambda u: u, False, {"first": 0.5, "shape": "linear", "scales_rates": False}),
}


@pytest.mark.at_commit("defaults")
@pytest.mark.parametrize(("first", "shape", "scales", "arguments"), CASES.values(), ids=CASES)
def test_each_step_is_as_the_paper_says(first, shape, scales, arguments):
    model, expected = build(), build()
    fit(model, progressive(**arguments))
    x, y = data()
    variables = expected.trainable_variables
    gradients, others = loss_gradients(expected, variables)
    names = [*LAYERS, "head"]
    owners = [layer.name for layer in expected.layers for _ in layer.trainable_variables]
    for step in range(STEPS):
        begin = step * BATCH % ROWS
        batch = [keras.ops.convert_to_tensor(a[begin : begin + BATCH]) for a in (x, y)]
        found, others = gradients(*batch, None, others)
        for owner, variable, gradient in zip(owners, variables, found, strict=True):
            rate = rate_by_paper(names.index(owner), step, first, shape, scales)
            moved = rate * keras.ops.convert_to_numpy(gradient)
            variable.assign(keras.ops.convert_to_numpy(variable) - moved)
    for one, two in zip(values(model).values(), values(expected).values(), strict=True):
        np.testing.assert_allclose(one, two, rtol=2e-3, atol=1e-5)


@pytest.mark.slow_on_jax
def test_rates_are_logged_by_group():
    history = fit(build(), progressive(log_details=True)).history
    for i, name in enumerate(LAYERS):
        for epoch in range(EPOCHS):
            found = history[f"learning_rate/{name}"][epoch]
            done = ROWS // BATCH * (epoch + 1)
            assert found == pytest.approx(
                rate_by_paper(i, done, 0.8, lambda u: u**3, True), abs=5e-4
            )


@pytest.mark.slow
def test_a_training_in_two_fits_is_the_same():
    whole, parts = build(keras.optimizers.Adam(0.01)), build(keras.optimizers.Adam(0.01))
    fit(whole, progressive())
    fit(parts, progressive(total_epochs=EPOCHS), epochs=2)
    fit(parts, progressive(total_epochs=EPOCHS), epochs=EPOCHS, initial_epoch=2)
    for one, two in zip(values(whole).values(), values(parts).values(), strict=True):
        np.testing.assert_allclose(one, two, rtol=1e-5, atol=1e-6)


@pytest.mark.slow_on_jax
def test_its_plan_can_be_previewed_and_written(tmp_path):
    model, callback = build(), progressive()
    assert callback.phase_starts(model, EPOCHS, STEPS // EPOCHS) == (0, 2, 2, 3)
    rows = callback.preview(model, EPOCHS, STEPS // EPOCHS).rows
    assert [row.training for row in rows][-1] == ("head",)
    callback.to_yaml(tmp_path / "plan.yaml", model, EPOCHS, steps_per_epoch=STEPS // EPOCHS)
    again = build()
    fit(model, callback)
    written = kf.FreezeScheduler(tmp_path / "plan.yaml", backbone=list(LAYERS), cache=False)
    fit(again, written)
    for one, two in zip(values(model).values(), values(again).values(), strict=True):
        np.testing.assert_array_equal(one, two)


def test_without_a_number_of_batches_it_says_what_to_pass():
    with pytest.raises(ValueError, match=r"ProgressiveFreeze\(steps_per_epoch=\.\.\.\) must be"):
        progressive().phase_starts(build(), EPOCHS)


def test_a_head_that_trains_alone_trains_to_the_end():
    history = fit(build(), progressive(keep_frozen=list(LAYERS), log_details=True)).history
    assert history["learning_rate/head"][2] > 0.01
    assert history["trainable_params"] == [24] * EPOCHS
