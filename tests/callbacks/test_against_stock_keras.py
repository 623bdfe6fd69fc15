"""A `fit` with transitions against the same phases written by hand with stock Keras."""

import itertools

import keras
import numpy as np
import optimizer_table
import pytest

import keras_freeze as kf
from keras_freeze.keras_internals import optimizers

QUICK = ("adam", "adamw-excluded")


def some(names, *orders):
    """Take a few optimizers at every commit, and all of them, in all orders, as slow tests."""
    return [
        pytest.param(name, *order, marks=() if name in QUICK and all(order) else pytest.mark.slow)
        for name in names
        for order in itertools.product(*orders)
    ]


OPTIMIZERS = optimizer_table.PER_VARIABLE
BY_HAND = [*OPTIMIZERS, "adam-callable", "adamw-excluded"]
PHASES = {0: ["low", "middle"], 1: ["low"], 3: []}


class WrittenByHand(keras.callbacks.Callback):
    """The recipe without keras_freeze: an optimizer for each part, compiled anew each phase.

    Each layer's variables get an optimizer of their own when they begin to train, and keep
    that object and so its state. Keras can't build one twice, so the parts are made into one
    `MultiOptimizer` in each phase.
    """

    def __init__(self, factory, rates, phases=PHASES):
        super().__init__()
        self.factory, self.rates, self.phases, self.parts = factory, rates, phases, {}

    def on_epoch_begin(self, epoch, logs=None):
        if epoch not in self.phases:
            return
        model = self.model
        for layer in model.layers:
            layer.trainable = layer.name not in self.phases[epoch]
            if layer.trainable and layer.name not in self.parts:
                self.parts[layer.name] = self.factory(self.rates.get(layer.name))
        of = {
            id(v): self.parts[layer.name]
            for layer in model.layers
            if layer.trainable
            for v in layer.trainable_variables
        }
        whole = Parts(of)
        whole.build(model.trainable_variables)  # while tracing, slots would start anew each step
        model.compile(whole, "sparse_categorical_crossentropy", metrics=["accuracy"])
        model.make_train_function()


class Parts(keras.optimizers.Optimizer):
    """Applies each variable's own optimizer; builds what isn't built."""

    def __init__(self, of):
        super().__init__(learning_rate=0.0)
        object.__setattr__(self, "of", of)

    def build(self, variables):
        super().build(variables)
        for part in dict.fromkeys(self.of.values()):
            if not part.built:
                part.build([v for v in variables if self.of[id(v)] is part])

    def apply(self, grads, trainable_variables=None):
        for part in dict.fromkeys(self.of.values()):
            pairs = [
                (g, v)
                for g, v in zip(grads, trainable_variables, strict=True)
                if self.of[id(v)] is part
            ]
            part.apply(*zip(*pairs, strict=True))


def train(build, optimizer, callback, data_for, shuffle):
    model = build()
    model.compile(optimizer, "sparse_categorical_crossentropy", metrics=["accuracy"])
    x, y = data_for(model, rows=24)
    keras.utils.set_random_seed(3)
    history = model.fit(
        x,
        y,
        batch_size=5,
        epochs=5,
        shuffle=shuffle,
        validation_split=0.2,
        verbose=0,
        callbacks=[callback],
    )
    names = ("loss", "accuracy", "val_loss", "val_accuracy")
    return {name: history.history[name] for name in names}, model.get_weights()


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="the contract of bits is TF's")
@pytest.mark.parametrize(("name", "shuffle"), some(BY_HAND, [False, True]))
@pytest.mark.at_commit("adamw-excluded-True")
def test_a_fit_with_transitions_equals_the_phases_written_by_hand(name, shuffle, plain, data_for):
    factory = optimizer_table.ALL[name]
    scheduler = kf.FreezeScheduler(PHASES, verbose=0)
    ours = train(plain, factory(), scheduler, data_for, shuffle)
    by_hand = WrittenByHand(lambda rate: factory(), {})
    theirs = train(plain, factory(), by_hand, data_for, shuffle)
    assert ours[0] == theirs[0]
    for a, b in zip(ours[1], theirs[1], strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="the reference compiles on TF")
@pytest.mark.parametrize("name", some(OPTIMIZERS))
def test_group_rates_equal_one_optimizer_a_group(name, plain, data_for):
    factory = optimizer_table.PER_VARIABLE[name]
    rate = float(factory().learning_rate.numpy())

    def at(rate):
        optimizer = factory()
        optimizer.learning_rate = rate
        return optimizer

    scheduler = kf.FreezeScheduler(PHASES, rates={"low": 0.1, "middle": 0.5}, verbose=0)
    ours = train(plain, factory(), scheduler, data_for, shuffle=True)
    rates = {"low": rate * 0.1, "middle": rate * 0.5, "head": rate}
    theirs = train(plain, factory(), WrittenByHand(at, rates), data_for, shuffle=True)
    for a, b in zip(ours[1], theirs[1], strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


@pytest.mark.backend
def test_group_rates_scale_what_a_step_moves(plain, data_for):
    """On every backend: with plain SGD a step is the rate times the gradient."""
    moved = {}
    for rates in (None, {"low": 0.25}):
        model = plain()
        model.compile(keras.optimizers.SGD(0.1), "sparse_categorical_crossentropy")
        x, y = data_for(model, rows=8)
        before = model.get_weights()
        scheduler = kf.FreezeScheduler({0: None}, rates=rates, verbose=0)
        model.fit(x, y, batch_size=8, verbose=0, callbacks=[scheduler])
        moved[rates is None] = [b - a for a, b in zip(before, model.get_weights(), strict=True)]
    for n, (slow, full) in enumerate(zip(moved[False], moved[True], strict=True)):
        np.testing.assert_allclose(slow, full * (0.25 if n < 2 else 1), rtol=1e-3, atol=1e-7)


@pytest.mark.backend
@pytest.mark.filterwarnings("ignore:.*has changed in phase")
@pytest.mark.parametrize(
    "rate",
    [
        lambda: 0.1,
        lambda: keras.optimizers.schedules.PolynomialDecay(0.1, 8, 0.01),
        lambda: lambda: 0.1,
    ],
    ids=["float", "schedule", "callable"],
)
@pytest.mark.at_commit("schedule")
def test_group_rates_multiply_any_kind_of_learning_rate(rate, data_for, plain):
    def final(multiplier, freeze):
        model = plain()
        sgd = keras.optimizers.SGD(rate(), weight_decay=0.01)
        model.compile(sgd, "sparse_categorical_crossentropy", run_eagerly=True)
        x, y = data_for(model, rows=8)
        schedule = {0: ["low"] if freeze else None}
        scheduler = kf.FreezeScheduler(schedule, rates={"low": multiplier}, verbose=0)
        model.fit(x, y, batch_size=4, epochs=4, verbose=0, shuffle=False, callbacks=[scheduler])
        return model.get_weights()

    tiny, frozen = final(1e-12, freeze=False), final(1.0, freeze=True)
    for a, b in zip(tiny, frozen, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7)
    assert np.abs(final(0.5, freeze=False)[0] - frozen[0]).max() > 1e-5


@pytest.mark.backend
def test_rates_end_with_the_fit_and_joiners_keep_their_step_count(plain, data_for):
    from keras_freeze.engine import update_rules

    model = plain()
    model.compile("adam", "sparse_categorical_crossentropy")
    x, y = data_for(model, rows=16)
    scheduler = kf.FreezeScheduler({0: "low", 1: None}, rates=2.0, verbose=0)
    model.fit(x, y, batch_size=8, epochs=2, verbose=0, callbacks=[scheduler])
    cohorts = update_rules.rules_of(model.optimizer).cohorts
    assert {cohort.multiplier for cohort in cohorts.values()} == {1.0}
    assert {cohort.start for cohort in cohorts.values()} == {2}
    assert len(cohorts) == 2
    assert optimizers.iterations(model.optimizer) == 4


REDUCED = [0.1, 0.1, 0.05, 0.025, 0.0125]  # by ReduceLROnPlateau, which first waits an epoch
HALVED = [0.1 * 0.5**n for n in range(1, 6)]


@pytest.mark.backend
@pytest.mark.parametrize(
    ("callback", "rates"),
    [
        (
            lambda: keras.callbacks.ReduceLROnPlateau(
                "loss", patience=1, factor=0.5, min_delta=9.0
            ),
            REDUCED,
        ),
        (lambda: keras.callbacks.LearningRateScheduler(lambda epoch, rate: rate / 2), HALVED),
    ],
    ids=["ReduceLROnPlateau", "LearningRateScheduler"],
)
@pytest.mark.at_commit("ReduceLROnPlateau")
def test_group_rates_follow_the_rate_that_a_stock_callback_sets(callback, rates, plain, data_for):
    """One step an epoch: the same as a schedule of these rates in the optimizer."""

    def train(rate, callbacks):
        model = plain()
        optimizer = keras.optimizers.SGD(rate, weight_decay=0.05)
        model.compile(optimizer, "sparse_categorical_crossentropy", run_eagerly=True)
        x, y = data_for(model, rows=8)
        groups = kf.FreezeScheduler({0: None}, rates={"low": 0.25}, verbose=0)
        model.fit(x, y, batch_size=8, epochs=5, verbose=0, callbacks=[groups, *callbacks])
        return model.get_weights()

    fixed = keras.optimizers.schedules.PiecewiseConstantDecay([0, 1, 2, 3], rates)
    for a, b in zip(train(0.1, [callback()]), train(fixed, []), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7)
    unchanged = train(0.1, [])
    assert np.abs(train(fixed, [])[0] - unchanged[0]).max() > 1e-4
