"""`rates="auto"`: group rates that follow the gradients, compared with a training by hand."""

import keras
import numpy as np
import pytest
from effects import values

import keras_freeze as kf
from keras_freeze.engine import recordings
from keras_freeze.keras_internals.gradients import loss_gradients
from keras_freeze.schedules import FreezeSchedule, OnPlateau, Phase

pytestmark = pytest.mark.backend

LAYERS = ("one", "two")
RATE, ROWS, BATCH, EPOCHS = 0.1, 20, 4, 4


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
    x, y = rng.normal(size=(ROWS, 6)), rng.normal(size=(ROWS, 3))
    return x.astype("float32"), y.astype("float32")


def scheduler(schedule=None, **arguments):
    arguments = {"backbone": list(LAYERS), "cache": False, "verbose": 0, **arguments}
    return kf.FreezeScheduler(
        {0: None} if schedule is None else schedule, rates="auto", **arguments
    )


def fit(model, *callbacks, **arguments):
    x, y = data()
    settings = {"batch_size": BATCH, "epochs": EPOCHS, "shuffle": False, "verbose": 0}
    return model.fit(x, y, **{**settings, **arguments}, callbacks=list(callbacks))


def by_hand():
    """Train by gradients computed apart; return the model and the multipliers of each epoch."""
    model = build()
    x, y = data()
    variables = model.trainable_variables
    owners = [layer.name for layer in model.layers for _ in layer.trainable_variables]
    gradients, others = loss_gradients(model, variables)
    rates, every = {"one": 2.6**-2, "two": 1 / 2.6, "head": 1.0}, []
    for _ in range(EPOCHS):
        every.append(rates)
        squares = dict.fromkeys(owners, 0.0)
        for begin in range(0, ROWS, BATCH):
            batch = [keras.ops.convert_to_tensor(a[begin : begin + BATCH]) for a in (x, y)]
            found, others = gradients(*batch, None, others)
            for owner, variable, gradient in zip(owners, variables, found, strict=True):
                g = keras.ops.convert_to_numpy(gradient)
                squares[owner] += (g**2).sum()
                variable.assign(keras.ops.convert_to_numpy(variable) - RATE * rates[owner] * g)
        norms = {}
        for owner, variable in zip(owners, variables, strict=True):
            norms[owner] = norms.get(owner, 0.0) + (keras.ops.convert_to_numpy(variable) ** 2).sum()
        relative = {name: np.sqrt(squares[name] / 5 / norms[name]) for name in norms}
        rates = {name: value / max(relative.values()) for name, value in relative.items()}
    return model, every


def test_rates_are_relative_gradient_norms_over_the_largest():
    expected, rates = by_hand()
    model = build()
    history = fit(model, scheduler(log_details=True)).history
    for epoch in range(EPOCHS):
        for name in (*LAYERS, "head"):
            logged = history[f"learning_rate/{name}"][epoch]
            assert logged == pytest.approx(RATE * rates[epoch][name], rel=1e-3)
    assert_alike(model, expected)


def assert_alike(model, expected):
    for one, two in zip(values(model).values(), values(expected).values(), strict=True):
        np.testing.assert_allclose(one, two, rtol=1e-3, atol=1e-5)


@pytest.mark.slow_on_jax
def test_two_fits_train_like_one():
    model = build()
    fit(model, scheduler(), epochs=2)
    fit(model, scheduler(), initial_epoch=2)
    assert_alike(model, by_hand()[0])


class Interrupts(keras.callbacks.Callback):
    def on_train_batch_end(self, batch, logs=None):
        if batch == 2 and self.model.optimizer.iterations > ROWS // BATCH:
            raise InterruptedError


@pytest.mark.slow_on_jax
def test_a_fit_that_starts_over_after_an_interruption_begins_anew():
    model = build()
    with pytest.raises(InterruptedError):
        fit(model, scheduler(), Interrupts())
    model.set_weights(build().get_weights())
    fit(model, scheduler())
    assert_alike(model, by_hand()[0])


@pytest.mark.slow_on_jax
@pytest.mark.at_commit("adamw")
@pytest.mark.parametrize(
    "make",
    [
        lambda: keras.optimizers.AdamW(0.01, weight_decay=0.1),
        lambda: keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(0.1), initial_scale=8.0),
    ],
    ids=["adamw", "scaled"],
)
def test_the_step_is_not_traced_again_and_nothing_is_left(make):
    model, steps = build(make()), set()

    class Sees(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            steps.add(id(self.model.train_function))

    plain = build(make())
    fit(plain)
    fit(model, scheduler(), Sees())
    assert len(steps) == 1
    assert len(model.optimizer.variables) == len(plain.optimizer.variables)


@pytest.mark.slow_on_jax
def test_groups_that_unfreeze_begin_at_the_default_rate(capsys):
    callback = scheduler({0: 2, 2: None}, verbose=1, log_details=True)
    history = fit(build(), callback).history
    assert history["learning_rate/head"][:3] == pytest.approx([RATE] * 3)
    assert history["learning_rate/two"][:2] == [0.0, 0.0]
    assert history["learning_rate/two"][2] == pytest.approx(RATE / 2.6)
    assert history["learning_rate/two"][3] != pytest.approx(RATE / 2.6)
    printed = capsys.readouterr().out
    assert "After epoch 1, by their gradients: head trains at 1.0e-01.\n" in printed
    assert "After epoch 4" not in printed


class Steps(keras.callbacks.Callback):
    """Keeps, epoch by epoch, how many gradients were recorded; and says what `val_loss` is."""

    def __init__(self, values):
        super().__init__()
        self.values, self.seen = values, []

    def on_epoch_end(self, epoch, logs=None):
        self.seen.append(max(norms.steps for norms in recordings.norms(self.model).values()))
        logs["val_loss"] = self.values[epoch]


@pytest.mark.slow_on_jax
def test_the_best_epoch_comes_back_with_nothing_recorded():
    until = OnPlateau("val_loss", patience=1)
    plan = FreezeSchedule([Phase(1, until=until, restore_best=True), Phase()])
    steps = Steps([1.0, 2.0, 2.0, 2.0])
    fit(build(), steps, scheduler(plan))
    assert steps.seen == [ROWS // BATCH] * EPOCHS
