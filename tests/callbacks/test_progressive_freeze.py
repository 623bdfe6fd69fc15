"""`ProgressiveFreeze`: its calendar and its rates, compared with a training by hand."""

import math

import keras
import numpy as np
import pytest
from effects import values

import keras_freeze as kf
from keras_freeze.keras_internals.gradients import loss_gradients
from keras_freeze.schedules import Annealing, FreezeSchedule, Phase

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


@pytest.mark.slow_on_jax
def test_rates_may_name_what_is_kept_frozen():
    callback = progressive(keep_frozen="two", rates={"two": 0.5, "one": 0.1}, scales_rates=False)
    rows = callback.preview(build(), EPOCHS, steps_per_epoch=5).rows
    assert rows[0].training == ("head", "three", "one")
    assert rows[0].rates == {"head": 1.0, "three": 1.0, "one": 0.1}
    with pytest.raises(ValueError, match=r"ProgressiveFreeze\(rates=\.\.\.\) must name"):
        progressive(rates={"five": 0.1}).preview(build(), EPOCHS, steps_per_epoch=5)


def annealed(lives):
    plan = FreezeSchedule([Phase(curve=Annealing(lives))])
    arguments = {"backbone": list(LAYERS), "cache": False, "verbose": 0, "log_details": True}
    return kf.FreezeScheduler(plan, **arguments)


@pytest.mark.slow_on_jax
def test_a_curve_for_groups_by_pattern():
    history = fit(build(), annealed({"one|two": 0.5})).history
    rates = {name: history[f"learning_rate/{name}"] for name in (*LAYERS, "head")}
    halves = [RATE * 0.5 * (1 + math.cos(math.pi * part)) for part in (0.25, 0.5, 0.75, 1.0)]
    assert rates["three"] == rates["head"] == pytest.approx(halves, abs=1e-6)
    assert rates["one"] == rates["two"] == pytest.approx([halves[1], 0, 0, 0], abs=1e-6)


@pytest.mark.slow_on_jax
def test_a_curve_for_a_group_that_is_not_there():
    with pytest.raises(ValueError, match=r"Annealing\(lives=\.\.\.\) must name"):
        fit(build(), annealed({"five": 0.5}))


@pytest.mark.slow_on_jax
def test_a_curve_over_a_training_of_unknown_length():
    callback = annealed({"one": 0.5})
    with pytest.raises(ValueError, match=r"whose length is known, for Annealing.*steps_per_ep"):
        callback.preview(build(), EPOCHS)


@pytest.mark.slow_on_jax
def test_a_group_trains_for_a_step_at_least():
    callback = progressive(first=0.01)
    rows = callback.preview(build(), EPOCHS, steps_per_epoch=5).rows
    assert rows[0].rates["one"] == STEPS
    assert callback.phase_starts(build(), EPOCHS, steps_per_epoch=5)[:2] == (0, 0)


@pytest.mark.skipif(keras.backend.backend() == "torch", reason="has no steps_per_execution")
@pytest.mark.slow_on_jax
@pytest.mark.parametrize("stride", [2, 3, 5])
def test_groups_freeze_with_the_execution_in_which_they_end(stride):
    model = build()
    model.steps_per_execution = stride
    callback = progressive(log_details=True)
    history = fit(model, callback).history  # warns of no phase that isn't reached
    parts = [(0.8 + 0.2 * i / 3) ** 3 for i in range(3)]
    ends = []
    for part in parts:
        epoch, step = divmod(round(part * STEPS), 5)
        ends.append(epoch * 5 + min(5, math.ceil(step / stride) * stride))
    frozen = [sum(end < 5 * (epoch + 1) for end in ends) for epoch in range(EPOCHS)]
    assert history["frozen_groups"] == frozen
