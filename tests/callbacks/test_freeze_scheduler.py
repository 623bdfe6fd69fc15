"""Schedules inside `fit`: what trains in each batch, where it ends, what is restored."""

import contextlib
import itertools
import logging
import re

import keras
import numpy as np
import pytest
from effects import compiled

import keras_freeze as kf
from keras_freeze.callbacks import fit_plan
from keras_freeze.engine import optimizer_state, update_rules
from keras_freeze.keras_internals import optimizers
from keras_freeze.schedules import (
    AfterSteps,
    FreezeSchedule,
    OnPlateau,
    Phase,
    SlantedTriangular,
    chain_thaw,
    gradual,
    progressive_freeze,
    timeline,
)

pytestmark = pytest.mark.backend
TORCH = keras.backend.backend() == "torch"
NAN, INF = float("nan"), float("inf")
NAMES = ["low", "middle", "head"]
STALL = OnPlateau("value_loss", patience=1)


class Values(keras.callbacks.Callback):
    """Puts a value for each epoch into the logs, for the callbacks after it to see."""

    def __init__(self, values):
        super().__init__()
        self.values = values

    def on_epoch_end(self, epoch, logs=None):
        if self.values:
            logs["value_loss"] = self.values[epoch]


class Watch(keras.callbacks.Callback):
    """Notes the layers that train in each execution, by their first letters, from the head."""

    def __init__(self):
        super().__init__()
        self.epochs = []

    def on_epoch_begin(self, epoch, logs=None):
        self.epochs.append([])

    def on_train_batch_begin(self, batch, logs=None):
        layers = reversed(self._model.layers)
        trained = [x.name[0] for x in layers if any(v.trainable for v in x.weights)]
        self.epochs[-1].append("".join(trained))

    @property
    def text(self):
        return " | ".join(" ".join(executions) for executions in self.epochs)


def train(model, data_for, callback, *, epochs, steps=2, values=(), beside=(), **settings):
    """Fit with so many batches an epoch; return what trained in each execution."""
    watch = Watch()
    x, y = data_for(model, rows=4 * steps)
    callbacks = [Values(values), callback, *beside, watch]
    settings = {"batch_size": 4, "shuffle": False, "verbose": 0, **settings}
    model.fit(x, y, epochs=epochs, callbacks=callbacks, **settings)
    return watch.text


def phases(*pairs):
    """Return a schedule from pairs of what is frozen and what ends it."""
    return FreezeSchedule([Phase(frozen, until=until) for frozen, until in pairs])


def reaches(value):
    return lambda logs: logs["value_loss"] >= value


RUNS = {  # a schedule, the settings of the fit, and what trains in each batch, epoch by epoch
    # From the head down, by GradualUnfreeze.
    "even": ("even", {"epochs": 3}, "h h | hm hm | hml hml"),
    "every 2 epochs": (2, {"epochs": 5}, "h h | h h | hm hm | hm hm | hml hml"),
    "a plan": ({0: "head", 2: ["middle", "low"]}, {"epochs": 3}, "h h | h h | hml hml"),
    "on a plateau": (
        STALL,
        {"epochs": 8, "values": [3, 2, 2, 1, 1, 0, 0, 0]},
        "h h | h h | h h | hm hm | hm hm | hml hml | hml hml",
    ),
    "on a plateau or after 2 epochs": (
        STALL | 2,
        {"epochs": 9, "values": range(9, 0, -1)},
        "h h | h h | hm hm | hm hm | hml hml | hml hml",
    ),
    "on a constant value": (
        STALL,
        {"epochs": 9, "values": [1] * 9},
        "h h | h h | hm hm | hm hm | hml hml | hml hml",
    ),
    "on nan": (STALL, {"epochs": 9, "values": [NAN] * 9}, "h h | hm hm | hml hml"),
    "on infinity": (
        STALL,
        {"epochs": 9, "values": [INF, 1, 1, -INF, 1, NAN, 5, NAN, 2]},
        "h h | hm hm | hm hm | hml hml",
    ),
    "every 3 batches": (AfterSteps(3), {"epochs": 9, "steps": 4}, "h h h hm | hm hm hml hml | hml"),
    "on a callable": (
        reaches(2),
        {"epochs": 9, "values": [1, 2, 3, 0, 0, 4, 0, 0, 0]},
        "h h | h h | hm hm | hml hml | hml hml | hml hml",
    ),
    # By FreezeScheduler.
    "freezing and unfreezing": (
        phases(("low", 1), (["middle", "head"], 2), (0, 1), (2, None)),
        {"epochs": 5},
        "hm hm | l l | l l | hml hml | h h",
    ),
    "a mapping": ({0: None, 1: 2, 3: "head"}, {"epochs": 4}, "hml hml | h h | h h | ml ml"),
    "before the first phase": ({2: "low"}, {"epochs": 3}, "hml hml | hml hml | hm hm"),
    "each group alone": (
        chain_thaw(NAMES, 1),
        {"epochs": 5},
        "h h | l l | m m | hml hml | hml hml",
    ),
    "from the input up": (progressive_freeze(NAMES), {"epochs": 3}, "hml hml | hm hm | h h"),
    "in the middle of an epoch": (
        phases((2, AfterSteps(3)), (1, AfterSteps(4)), (0, None)),
        {"epochs": 3, "steps": 4},
        "h h h hm | hm hm hm hml | hml hml hml hml",
    ),
    "at an epoch's last batch": (
        phases((2, AfterSteps(4)), (0, None)),
        {"epochs": 2, "steps": 4},
        "h h h h | hml hml hml hml",
    ),
    "three in one epoch": (
        phases((2, AfterSteps(1)), (1, AfterSteps(1)), (["head"], AfterSteps(1)), (0, None)),
        {"epochs": 2, "steps": 4},
        "h hm ml hml | hml hml hml hml",
    ),
    "an epoch that is begun counts": (
        phases((2, AfterSteps(3)), (1, 1), (0, None)),
        {"epochs": 2, "steps": 4},
        "h h h hm | hml hml hml hml",
    ),
    "both steps and a value": (
        phases((2, AfterSteps(3) & reaches(2)), (0, None)),
        {"epochs": 4, "values": [2, 1, 2, 0]},
        "h h | h hml | hml hml | hml hml",
    ),
    # The last phase ends the fit.
    "after epochs": (phases((2, 1), (1, 2)), {"epochs": 9}, "h h | hm hm | hm hm"),
    "after batches": (
        phases((2, 1), (0, AfterSteps(5))),
        {"epochs": 9, "steps": 3},
        "h h h | hml hml hml | hml hml",
    ),
    "after an epoch of batches": (
        phases((1, AfterSteps(3))),
        {"epochs": 9, "steps": 3},
        "hm hm hm",
    ),
    "after a single batch": (phases((1, AfterSteps(1))), {"epochs": 9, "steps": 3}, "hm"),
    "after a single batch of a second phase": (
        phases((1, AfterSteps(2)), (0, AfterSteps(1))),
        {"epochs": 9, "steps": 4},
        "hm hm hml",
    ),
    "at a value": (
        phases((2, STALL), (1, STALL)),
        {"epochs": 9, "values": [1, 1, 1, 0, 0, 0, 0, 0, 0]},
        "h h | h h | hm hm | hm hm | hm hm",
    ),
    "where the training ends anyway": (phases((1, 2)), {"epochs": 2}, "hm hm | hm hm"),
}


IMPLICIT = ("even", "every", "a plan", "on")


def made(case, schedule):
    is_implicit = case.startswith(IMPLICIT)
    return (kf.GradualUnfreeze if is_implicit else kf.FreezeScheduler)(schedule, verbose=0)


@pytest.mark.parametrize("case", RUNS)
@pytest.mark.at_commit(
    "even",
    "a plan",
    "on a plateau or after 2 epochs",
    "every 3 batches",
    "freezing and unfreezing",
    "a mapping",
    "in the middle of an epoch",
    "three in one epoch",
    "after an epoch of batches",
    "where the training ends anyway",
)
def test_what_trains_in_each_batch(case, plain, data_for):
    schedule, settings, expected = RUNS[case]
    model = compiled(plain(), eager=True)
    has_numbers = case not in ("on nan", "on infinity")
    said = contextlib.nullcontext() if has_numbers else pytest.warns(UserWarning)
    with said as caught:
        assert train(model, data_for, made(case, schedule), **settings) == expected
    if caught is not None:
        value = "nan" if case == "on nan" else "inf"
        said = [str(w.message) for w in caught if "Such an epoch counts as" in str(w.message)]
        assert len(said) == 1 and f"is {value} in epoch 1." in said[0]  # once in a fit


STRIDES = {  # the same with several batches in an execution: one word for each
    "the phase ends with the execution": (
        phases((2, AfterSteps(3)), (0, None)),
        {"epochs": 1, "steps": 6},
        2,
        "h h hml",
    ),
    "the epoch's last execution is short": (
        phases((2, AfterSteps(5)), (1, AfterSteps(1)), (0, None)),
        {"epochs": 2, "steps": 5},
        4,
        "h h | hm hml",
    ),
    "an execution that is short doesn't end it": (
        phases((2, AfterSteps(6)), (0, None)),
        {"epochs": 2, "steps": 5},
        4,
        "h h | h hml",
    ),
    "the last phase ends the fit": (
        phases((2, AfterSteps(3)), (0, AfterSteps(3))),
        {"epochs": 9, "steps": 6},
        2,
        "h h hml | hml",
    ),
    "a short execution doesn't end the fit": (
        phases((2, AfterSteps(6))),
        {"epochs": 9, "steps": 5},
        4,
        "h h | h",
    ),
    "an execution of a whole epoch": (
        phases((2, AfterSteps(2)), (0, AfterSteps(7))),
        {"epochs": 9, "steps": 4},
        4,
        "h | hml | hml",
    ),
}


@pytest.mark.skipif(TORCH, reason="Keras has no steps_per_execution on torch")
@pytest.mark.parametrize("case", STRIDES)
@pytest.mark.at_commit(
    "the phase ends with the execution",
    "an execution that is short doesn't end it",
    "a short execution doesn't end the fit",
)
def test_what_trains_in_each_execution(case, plain, data_for):
    schedule, settings, stride, expected = STRIDES[case]
    model = plain()
    model.compile("sgd", "sparse_categorical_crossentropy", steps_per_execution=stride)
    callback = kf.FreezeScheduler(schedule, verbose=0)
    assert train(model, data_for, callback, **settings) == expected


class Weights(keras.callbacks.Callback):
    """Copies the kernels before the first batch and after each."""

    def __init__(self):
        super().__init__()
        self.kernels = []

    def on_train_begin(self, logs=None):
        self.on_train_batch_end(-1)

    def on_train_batch_end(self, batch, logs=None):
        self.kernels.append(self.model.get_weights()[::2])


def test_the_step_follows_in_the_middle_of_an_epoch(plain, data_for):
    """Not the flags alone: with plain SGD what is frozen does not move, and what unfreezes does."""
    model, weights = compiled(plain(), keras.optimizers.SGD(0.05)), Weights()
    schedule = phases((2, AfterSteps(2)), (["head"], AfterSteps(1)), (0, None))
    callback = kf.FreezeScheduler(schedule, verbose=0)
    train(model, data_for, callback, epochs=1, steps=4, beside=[weights])
    moved = [
        [bool((a != b).any()) for a, b in zip(before, after, strict=True)]
        for before, after in itertools.pairwise(weights.kernels)
    ]
    assert moved == [[False, False, True]] * 2 + [[True, True, False], [True, True, True]]


def test_it_says_what_it_does(plain, data_for, capsys):
    schedule = FreezeSchedule(
        [
            Phase(2, until=STALL, restore_best="value_loss"),
            Phase("low", rates=2.0, until=AfterSteps(3)),
            Phase(until=1),
        ]
    )
    model = plain()
    model.compile(keras.optimizers.SGD(0.05), "sparse_categorical_crossentropy")
    callback = kf.FreezeScheduler(schedule, cache=False)
    train(model, data_for, callback, epochs=9, values=[2, 1, 1, 0, 0])
    assert capsys.readouterr().out.splitlines()[1:] == [
        "Epoch 1/9: head trains at 5.0e-02, low and middle are frozen; 18 of 83 parameters train.",
        "Epoch 4/9: restored epoch 2 (value_loss 1).",
        "Epoch 4/9: middle unfreezes at 2.5e-02; 53 of 83 parameters train.",
        "Epoch 5/9, step 1: low unfreezes at 5.0e-02; 83 of 83 parameters train.",
        "Epoch 5/9: the last phase is over, and training ends.",
    ]


# The best epoch of a phase.


def everything(model):
    """Copy weights and optimizer state, but for the learning rate, by path."""
    rate = model.optimizer._learning_rate
    variables = [*model.weights, *(v for v in model.optimizer.variables if v is not rate)]
    return {v.path: optimizer_state.to_host(v) for v in variables}


class States(keras.callbacks.Callback):
    """Copies all state at the end of each epoch, and as the first batch of each begins."""

    def __init__(self):
        super().__init__()
        self.ends, self.begins, self.rates = [], [], []

    def on_train_batch_begin(self, batch, logs=None):
        if batch == 0:
            model = self.model
            self.begins.append(everything(model))
            self.rates.append(optimizers.learning_rate(model.optimizer))

    def on_epoch_end(self, epoch, logs=None):
        self.ends.append(everything(self.model))


BEST = {  # values, restore_best, the epoch that the second phase begins with, after epoch 3
    "the lowest": ([4, 2, 1, 3], "value_loss", 2),
    "the first of equals": ([4, 1, 1, 3], "value_loss", 1),
    "the last": ([4, 3, 2, 1], "value_loss", 3),
    "the first": ([1, 2, 3, 4], "value_loss", 0),
    "not nan or infinity": ([NAN, -INF, 3, INF], "value_loss", 2),
    "nothing finite": ([NAN, INF, -INF, NAN], "value_loss", 3),
    "not asked for": ([4, 2, 1, 3], False, 3),
}


@pytest.mark.filterwarnings("ignore:.*Such an epoch counts as one without")
@pytest.mark.parametrize("case", BEST)
@pytest.mark.at_commit("the lowest", "not nan or infinity", "not asked for")
def test_the_next_phase_begins_with_the_best_of_the_last(case, plain, data_for):
    values, restore_best, expected = BEST[case]
    model = plain()
    model.compile(keras.optimizers.Adam(0.1), "sparse_categorical_crossentropy")
    schedule = FreezeSchedule(
        [
            Phase(1, until=OnPlateau("value_loss", 9) | 4, restore_best=restore_best),
            Phase("head"),
        ]
    )
    states = States()
    halve = keras.callbacks.LearningRateScheduler(lambda epoch, rate: 0.1 / 2**epoch)
    callback = kf.FreezeScheduler(schedule, verbose=0)
    train(model, data_for, callback, epochs=5, values=[*values, 0], beside=[halve, states])
    best, begun = states.ends[expected], states.begins[4]
    kept = set(best) & set(begun)
    assert {path for path in kept if (best[path] != begun[path]).any()} == set()
    assert sum("middle" in path for path in kept) == 6  # kernel and bias, and two slots of each
    assert not any("head" in path and "adam" in path for path in begun)
    assert begun["adam/iteration"] == 2 * (expected + 1)
    assert states.rates == pytest.approx([0.1 / 2**epoch for epoch in range(5)])


@pytest.mark.parametrize("values", [[3, 1, 2, 2], [1, 2, 3, 4]], ids=str)
@pytest.mark.at_commit("[3, 1, 2, 2]")
def test_going_back_equals_the_same_done_by_hand(values, plain, data_for):
    def fresh():
        model = plain()
        model.compile(keras.optimizers.Adam(0.05), "sparse_categorical_crossentropy")
        return model

    ours, by_hand, best = fresh(), fresh(), values.index(1)
    schedule = FreezeSchedule(
        [
            Phase(2, until=OnPlateau("value_loss", 4 - best) | 4, restore_best="value_loss"),
            Phase(1, rates={"middle": 0.5}),
        ]
    )
    callback = kf.FreezeScheduler(schedule, verbose=0)
    train(ours, data_for, callback, epochs=6, steps=3, values=[*values, 0, 0])

    kf.freeze(by_hand, groups=2)
    x, y = data_for(by_hand, rows=12)
    settings = {"batch_size": 4, "shuffle": False, "verbose": 0}
    by_hand.fit(x, y, epochs=best + 1, **settings)
    rest = kf.FreezeScheduler({0: 1}, rates={"middle": 0.5}, verbose=0)
    by_hand.fit(x, y, epochs=2, callbacks=[rest], **settings)
    compare = np.testing.assert_array_equal
    if keras.backend.backend() != "tensorflow":
        compare = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)  # noqa: E731
    for a, b in zip(ours.get_weights(), by_hand.get_weights(), strict=True):
        compare(a, b)


def test_the_fit_ends_with_the_best_of_the_last_phase(plain, data_for):
    model, states = compiled(plain()), States()
    schedule = FreezeSchedule(
        [Phase(2, until=1), Phase(until=OnPlateau("value_loss", 2), restore_best=True)]
    )
    callback = kf.FreezeScheduler(schedule, verbose=0)
    text = train(model, data_for, callback, epochs=9, values=[0, 2, 1, 3, 3, 3], beside=[states])
    assert text == "h h | hml hml | hml hml | hml hml | hml hml"
    best, now = states.ends[2], everything(model)
    assert {path for path in best if (best[path] != now[path]).any()} == set()


def test_the_end_of_a_part_of_the_training_is_not_the_end_of_the_phase(plain, data_for):
    model, states = compiled(plain(), eager=True), States()
    schedule = FreezeSchedule([Phase(restore_best="value_loss")])
    values = [0, 1, 2]
    for begin, end in ((0, 2), (2, 3)):
        callback = kf.FreezeScheduler(schedule, total_epochs=3, verbose=0)
        settings = {"epochs": end, "initial_epoch": begin, "values": values, "beside": [states]}
        train(model, data_for, callback, **settings)
    ends, begins = states.ends, states.begins
    assert not any((ends[1][path] != begins[2][path]).any() for path in begins[2])
    now = everything(model)
    assert not any((ends[0][path] != now[path]).any() for path in now)


def test_a_phase_that_ends_in_mid_epoch_goes_back_to_an_epochs_end(plain, data_for):
    model, states = compiled(plain()), States()
    schedule = FreezeSchedule(
        [
            Phase(2, until=AfterSteps(3), restore_best="value_loss"),
            Phase("head", until=AfterSteps(1)),
        ]
    )
    callback = kf.FreezeScheduler(schedule, verbose=0)
    values = [0, 5]
    assert (
        train(model, data_for, callback, epochs=2, values=values, beside=[states]) == "h h | h ml"
    )
    best, now = states.ends[0], everything(model)
    assert not any(
        (best[path] != now[path]).any() for path in best if "head" in path and "sgd" not in path
    )
    assert now["sgd/iteration"] == 3


def test_each_phase_has_a_best_of_its_own(plain, data_for):
    model, states = compiled(plain()), States()
    schedule = FreezeSchedule(
        [
            Phase(2, until=2, restore_best="value_loss"),
            Phase(1, until=2, restore_best="value_loss"),
            Phase(),
        ]
    )
    callback = kf.FreezeScheduler(schedule, verbose=0)
    train(model, data_for, callback, epochs=5, values=[0, 1, 8, 9, 9], beside=[states])
    for begin, end in ((2, 0), (4, 2)):
        begun, best = states.begins[begin], states.ends[end]
        assert not any((begun[p] != best[p]).any() for p in best if p in begun)


@pytest.mark.parametrize("asked", [True, "val_accuracy", "quality_loss"])
def test_the_log_of_the_best_must_be_there(asked, plain, data_for):
    schedule = FreezeSchedule([Phase(2, until=2, restore_best=asked), Phase()])
    name = "val_loss" if asked is True else asked
    message = (
        rf"^Phase\(restore_best=\.\.\.\) must name a metric of this fit\. Received: '{name}'\. "
    )
    with pytest.raises(ValueError, match=message):
        callback = kf.FreezeScheduler(schedule, verbose=0)
        train(compiled(plain(), eager=True), data_for, callback, epochs=3)


def test_the_log_of_a_trigger_must_be_there(plain, data_for):
    message = (
        "OnPlateau(monitor=...) must name a metric of this fit. Received: 'val_loss'. Pass "
        "validation_data= to fit, and validation_freq=1. Available metrics: loss, "
        "trainable_params, non_trainable_params."
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        callback = kf.GradualUnfreeze(OnPlateau(), verbose=0)
        train(compiled(plain(), eager=True), data_for, callback, epochs=20)


# Beside the stock callbacks.


@pytest.mark.filterwarnings("ignore:ReduceLROnPlateau may lower:UserWarning")
def test_a_plateau_of_the_rate_stays_when_the_best_comes_back(plain, data_for):
    model = compiled(plain(), keras.optimizers.SGD(0.4))
    reduce = keras.callbacks.ReduceLROnPlateau("value_loss", 0.5, 1, mode="min", min_delta=0)
    schedule = FreezeSchedule([Phase(2, until=3, restore_best="value_loss"), Phase()])
    states = States()
    callback = kf.FreezeScheduler(schedule, verbose=0)
    train(model, data_for, callback, epochs=4, values=[1, 2, 3, 4], beside=[reduce, states])
    assert states.rates == pytest.approx([0.4, 0.4, 0.2, 0.1])
    assert not any((states.begins[3][p] != states.ends[0][p]).any() for p in states.ends[0])


def test_early_stopping_ends_the_fit_in_any_phase(plain, data_for):
    model = compiled(plain(), eager=True)
    stop = keras.callbacks.EarlyStopping("value_loss", patience=2, mode="min", start_from_epoch=1)
    callback = kf.FreezeScheduler(phases((2, STALL), (0, None)), verbose=0)
    values = [3, 2, 1, 1, 1, 1, 1]
    text = train(model, data_for, callback, epochs=9, values=values, beside=[stop])
    assert text == "h h | h h | h h | h h | hml hml"


def test_early_stopping_that_restores_does_so_with_the_flags_of_the_last_phase(plain, data_for):
    model, states = compiled(plain()), States()
    stop = keras.callbacks.EarlyStopping(
        "value_loss", patience=2, mode="min", start_from_epoch=1, restore_best_weights=True
    )
    callback = kf.FreezeScheduler(phases((2, 1), (0, None)), verbose=0)
    train(model, data_for, callback, epochs=9, values=[9, 1, 2, 3, 4], beside=[stop, states])
    assert len(states.ends) == 4
    for variable in model.weights:
        best = states.ends[1][variable.path]
        np.testing.assert_array_equal(optimizer_state.to_host(variable), best)
    assert len(model.trainable_variables) == 6


# Several fits.


def test_one_callback_serves_two_fits(plain, data_for):
    schedule = FreezeSchedule([Phase(2, until=STALL, restore_best="value_loss"), Phase()])
    callback, model = kf.FreezeScheduler(schedule, verbose=0), compiled(plain(), eager=True)
    first = train(model, data_for, callback, epochs=3, values=[1, 1, 1])
    second = train(model, data_for, callback, epochs=5, values=[5, 4, 3, 3, 3])
    other = train(compiled(plain(), eager=True), data_for, callback, epochs=3, values=[1, 1, 1])
    assert first == other == "h h | h h | hml hml"
    assert second == "h h | h h | h h | h h | hml hml"


SPLITS = {
    "on a plateau": (
        FreezeSchedule([Phase(2, until=STALL), Phase(1, until=STALL | 9), Phase()]),
        [3, 2, 2, 1, 0, 0, 0],
    ),
    "restoring the best": (
        FreezeSchedule(
            [
                Phase(2, until=OnPlateau("value_loss", 2), restore_best=True),
                Phase(1, until=2, restore_best="value_loss"),
                Phase(),
            ]
        ),
        [1, 2, 3, 1, 2, 0, 0],
    ),
    "in mid-epoch": (
        FreezeSchedule([Phase(2, until=AfterSteps(3)), Phase(1, until=AfterSteps(5)), Phase()]),
        [0] * 7,
    ),
    "after a late start": (FreezeSchedule({1: 2, 2: 1, 4: None}), [0] * 7),
}


@pytest.mark.parametrize("case", SPLITS)
@pytest.mark.at_commit("in mid-epoch")
def test_a_fit_that_goes_on_in_this_process_ends_as_if_it_were_one(case, plain, data_for):
    schedule, values = SPLITS[case]

    def fresh():
        model = compiled(plain(), keras.optimizers.Adam(0.05), eager=True)
        return model, kf.FreezeScheduler(schedule, verbose=0, total_epochs=6)

    whole, callback = fresh()
    expected = train(whole, data_for, callback, epochs=6, values=values)
    for cut in (1, 3):  # within the first phase, and at its end
        parts, callback = fresh()
        first = train(parts, data_for, callback, epochs=cut, values=values)
        callback = kf.FreezeScheduler(schedule, verbose=0)
        second = train(parts, data_for, callback, epochs=6, initial_epoch=cut, values=values)
        assert f"{first} | {second}" == expected
        for a, b in zip(parts.get_weights(), whole.get_weights(), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-7)


def test_a_fit_that_continues_says_what_is_new(plain, data_for, capsys):
    model, callback = compiled(plain()), kf.GradualUnfreeze({0: "head", 2: "middle"}, rates=None)
    callback.total_epochs = 3
    train(model, data_for, callback, epochs=2)
    capsys.readouterr()
    train(model, data_for, callback, epochs=3, initial_epoch=2)
    assert capsys.readouterr().out.partition("\n")[2] == (
        "Epoch 3/3: middle unfreezes at 5.0e-01; 53 of 83 parameters train.\n"
        "After training: low is frozen, as no phase of the schedule unfreezes more.\n"
    )


class StopInEpoch(keras.callbacks.Callback):
    """Stops the fit after its second batch."""

    def on_train_batch_end(self, batch, logs=None):
        if batch == 1:
            self._model.stop_training = True


def test_of_an_epoch_that_is_cut_short_only_the_batches_that_were_done_count(plain, data_for):
    model = compiled(plain(), eager=True)
    schedule = phases((2, AfterSteps(3)), (0, None))
    settings = {"steps": 4, "epochs": 2}
    callback = kf.FreezeScheduler(schedule, verbose=0)
    assert train(model, data_for, callback, beside=[StopInEpoch()], **settings) == "h h"
    text = train(model, data_for, callback, initial_epoch=1, **settings)
    assert text == "h hml hml hml"


def test_compiling_anew_in_between_forgets_the_best(plain, data_for):
    """Its optimizer state belongs to an optimizer that is gone."""
    schedule = FreezeSchedule([Phase(2, until=2, restore_best="value_loss"), Phase()])
    callback = kf.FreezeScheduler(schedule, verbose=0, total_epochs=3)
    model = compiled(plain(), "adam")
    train(model, data_for, callback, epochs=2, values=[1, 2])
    compiled(model, "sgd")
    assert train(model, data_for, callback, epochs=3, initial_epoch=2, values=[0] * 3) == "hml hml"


REFUSED = {
    "a plateau": phases((2, STALL), (0, None)),
    "a bounded plateau": phases((2, STALL | 5), (0, None)),
    "a callable": phases((2, reaches(1)), (0, None)),
    "a last plateau": phases((2, 1), (0, STALL)),
    "a plateau after batches": phases((2, AfterSteps(1)), (0, STALL)),
}


@pytest.mark.parametrize("case", REFUSED)
def test_where_an_unknown_fit_stood_is_not_guessed(case, plain, data_for):
    message = (
        "FreezeScheduler(schedule=...) must go by epochs alone in a fit that begins at epoch 3, or "
        "the fit before it must have run in this process. Received: a schedule that depends on "
        "metrics or steps, whose state was not saved. Use keras_freeze.BackupAndRestore to resume "
        "after an interruption."
    )
    callback = kf.FreezeScheduler(REFUSED[case], verbose=0)
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        train(compiled(plain()), data_for, callback, epochs=6, initial_epoch=3)


def test_another_epoch_than_the_next_is_not_guessed_either(plain, data_for):
    model = compiled(plain(), eager=True)
    callback = kf.FreezeScheduler(REFUSED["a plateau"], verbose=0, total_epochs=6)
    train(model, data_for, callback, epochs=2, values=[1, 1])
    with pytest.raises(ValueError, match="must go by epochs alone in a fit that begins at epoch 3"):
        train(model, data_for, callback, epochs=6, initial_epoch=3)


@pytest.mark.parametrize("is_known", [True, False])
def test_a_schedule_that_is_over_does_not_train_on(is_known, plain, data_for):
    schedule = phases((2, 1), (0, 2))
    callback, model = kf.FreezeScheduler(schedule, verbose=0), compiled(plain(), eager=True)
    if is_known:
        assert train(model, data_for, callback, epochs=9) == "h h | hml hml | hml hml"
    message = (
        "FreezeScheduler(schedule=...) must not be over before the fit begins. Received: a fit "
        "from epoch 3, and a last phase that has ended by then. To train further, leave the "
        "callback out; to start over, leave initial_epoch= out."
    )
    before = model.get_weights()
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        train(model, data_for, callback, epochs=9, initial_epoch=3)
    assert all((a == b).all() for a, b in zip(before, model.get_weights(), strict=True))


# Another process: the model comes from a file, and nothing is remembered.


def starts(model):
    """Return when each variable joined, in batches, of those that did not train from the start."""
    cohorts = update_rules.rules_of(model.optimizer).cohorts
    paths = {id(v): v.path.removeprefix("plain/") for v in model.weights}
    return {paths[i]: cohort.start for i, cohort in cohorts.items() if cohort.start}


BY_CALENDAR = {  # a schedule, batches in an execution, and by layer when it joined, in batches
    "gradual": (gradual(NAMES), 1, {"middle": 2, "low": 4}),
    "group rates": (gradual(NAMES, rates=3.0), 1, {"middle": 2, "low": 4}),
    "freezing and unfreezing": (phases((0, 1), (2, 1), (0, None)), 1, {"low": 4, "middle": 4}),
    "in mid-epoch": (phases((2, AfterSteps(3)), (0, None)), 1, {"low": 3, "middle": 3}),
    "executions": (phases((2, AfterSteps(1)), (0, None)), 2, {"low": 2, "middle": 2}),
    "the best was the last": (
        FreezeSchedule([Phase(2, until=1, restore_best="value_loss"), Phase()]),
        1,
        {"low": 2, "middle": 2},
    ),
}


@pytest.mark.slow_on_jax
@pytest.mark.parametrize("cut", [2, pytest.param(3, marks=pytest.mark.slow)])
@pytest.mark.parametrize("case", BY_CALENDAR)
@pytest.mark.at_commit("group rates-2", "in mid-epoch-2", "the best was the last-2")
def test_another_process_knows_how_long_each_group_has_trained(
    case, cut, plain, data_for, tmp_path
):
    schedule, stride, joined = BY_CALENDAR[case]
    if stride > 1 and TORCH:
        pytest.skip("Keras has no steps_per_execution on torch")

    def fresh():
        model = plain()
        loss = "sparse_categorical_crossentropy"
        adam, eager = keras.optimizers.Adam(0.05), stride == 1
        model.compile(adam, loss, steps_per_execution=stride, run_eagerly=eager)
        return model

    def go_on(model, epochs, begin=0):
        callback = kf.FreezeScheduler(schedule, verbose=0, total_epochs=4)
        values = [4, 3, 2, 1]
        train(model, data_for, callback, epochs=epochs, initial_epoch=begin, values=values)

    whole, half = fresh(), fresh()
    go_on(whole, 4)
    go_on(half, cut)
    half.save(tmp_path / "half.keras")
    loaded = keras.models.load_model(tmp_path / "half.keras")
    go_on(loaded, 4, cut)
    expected = {f"{name}/{v}": n for name, n in joined.items() for v in ("kernel", "bias")}
    assert starts(loaded) == starts(whole) == expected
    for a, b in zip(loaded.get_weights(), whole.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


UNTOLD = {  # what was trained before, then how it continues: the message
    "other batches": (
        {"epochs": 2, "steps": 3},
        gradual(NAMES),
        "FreezeScheduler: fit(initial_epoch=2) must continue the training that its schedule "
        "describes, or begin with a new optimizer. Received: an optimizer after 6 batches, and 2 "
        "batches an epoch, so that it is not known how long the groups that unfroze late have "
        "trained. Use keras_freeze.BackupAndRestore, which keeps that.",
    ),
    "a late start": (
        {"epochs": 2},
        FreezeSchedule({1: 2, 3: None}),
        "FreezeScheduler: fit(initial_epoch=2) must continue in the process that began it, with a "
        "new optimizer, or with a schedule from epoch 0. Received: a schedule from epoch 1, which "
        "does not say what trained before, so that it is not known how long the groups that "
        "unfroze late have trained. Use keras_freeze.BackupAndRestore, which keeps that.",
    ),
}


@pytest.mark.parametrize("case", UNTOLD)
@pytest.mark.slow_on_jax
def test_what_a_file_does_not_tell_is_not_guessed(case, plain, data_for, tmp_path):
    before, schedule, message = UNTOLD[case]
    model = compiled(plain(), "adam", eager=True)
    total = {"verbose": 0, "total_epochs": 9}
    train(model, data_for, kf.FreezeScheduler(schedule, **total), **before)
    model.save(tmp_path / "half.keras")
    loaded = keras.models.load_model(tmp_path / "half.keras")
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        callback = kf.FreezeScheduler(schedule, **total)
        train(loaded, data_for, callback, epochs=4, initial_epoch=2)
    compiled(loaded, "adam", eager=True)
    callback = kf.FreezeScheduler(schedule, **total)
    train(loaded, data_for, callback, epochs=4, initial_epoch=2)


# What this fit can't do.

UNREACHED = {
    "too few epochs": (
        phases((2, 2), (1, 2), (0, None)),
        "FreezeScheduler: the phase at epoch 4 is not reached in 4 epochs. Train longer or begin "
        "it earlier; where training is split over several fits, pass total_epochs=.",
    ),
    "too many batches": (
        phases((2, AfterSteps(8)), (0, None)),
        "FreezeScheduler: the phase at epoch 4 is not reached in 4 epochs. ",
    ),
    "too patient": (
        phases((2, OnPlateau("value_loss", 4)), (0, None)),
        "FreezeScheduler: phase 1 is not reached in 4 epochs, as it can't begin before epoch 5. ",
    ),
    "too patient together": (
        phases((2, OnPlateau("value_loss", 2)), (1, reaches(1)), (0, None)),
        "FreezeScheduler: phase 2 is not reached in 4 epochs, as it can't begin before epoch 4. ",
    ),
}


@pytest.mark.parametrize("case", UNREACHED)
@pytest.mark.at_commit("too patient together", "too few epochs")
def test_a_phase_that_is_not_reached_is_warned_of(case, plain, data_for):
    schedule, message = UNREACHED[case]
    settings = {"epochs": 4, "values": [4, 3, 2, 1]}
    with pytest.warns(UserWarning, match=f"^{re.escape(message)}") as caught:
        callback = kf.FreezeScheduler(schedule, verbose=0)
        train(compiled(plain(), eager=True), data_for, callback, **settings)
    assert [warning.category for warning in caught].count(UserWarning) == 1
    callback = kf.FreezeScheduler(schedule, verbose=0, total_epochs=9)
    train(compiled(plain(), eager=True), data_for, callback, **settings)


INVALID = {
    "a phase that trains nothing": (
        phases((2, 1), (NAMES, 1), (0, None)),
        "FreezeScheduler(schedule=...) must leave at least one trainable variable. Received: the "
        "phase at epoch 1, which freezes all of model 'plain'. Leave out a group of: low, middle, "
        "head.",
    ),
    "one that begins at some time": (
        phases((2, STALL), (NAMES, None)),
        "FreezeScheduler(schedule=...) must leave at least one trainable variable. Received: "
        "phase 1, which freezes all of model 'plain'. Leave out a group of: low, middle, head.",
    ),
    "an unknown group": (
        phases((2, STALL), ("lwo", None)),
        "FreezeGroups(groups=...) must name layer groups of the model. Received: 'lwo'. Did you "
        "mean 'low'? Available groups: low, middle, head.\nIn phase 1 of FreezeScheduler"
        "(schedule=...).",
    ),
    "unknown weights": (
        FreezeSchedule([Phase(1, weights="kernle")]),
        "FreezeWeights(names=...) must name variables of the layers chosen. Received: "
        "names='kernle'. Did you mean 'kernel'? Available: bias, kernel.\nIn the phase at epoch 0 "
        "of FreezeScheduler(schedule=...).",
    ),
}


@pytest.mark.parametrize("case", INVALID)
def test_what_the_model_can_not_do_is_refused_before_anything_runs(case, plain, data_for):
    schedule, message = INVALID[case]
    model = compiled(plain())
    before = model.get_weights()
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        train(model, data_for, kf.FreezeScheduler(schedule, verbose=0), epochs=9)
    assert all(variable.trainable for variable in model.weights)
    assert all((a == b).all() for a, b in zip(before, model.get_weights(), strict=True))


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="TensorFlow's warning")
def test_transitions_do_not_make_tensorflow_warn_of_retracing(plain, data_for, caplog):
    logger = logging.getLogger("tensorflow")
    logger.setLevel(logging.WARNING)
    try:
        warn = "5 out of the last 5 calls to <function> triggered tf.function retracing."
        said = keras.callbacks.LambdaCallback(on_epoch_begin=lambda *_: logger.warning(warn))
        callback = kf.FreezeScheduler({n: n % 2 for n in range(2)}, verbose=0)
        train(compiled(plain()), data_for, callback, epochs=2, beside=[said])
        assert caplog.messages == []
        stopped = keras.callbacks.LambdaCallback(on_epoch_begin=lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            train(compiled(plain()), data_for, callback, epochs=2, beside=[stopped])
        logger.warning(warn)
        train(compiled(plain()), data_for, said, epochs=1)
        assert caplog.messages == [warn, warn]
        other = logging.LogRecord("tensorflow", logging.WARNING, "", 1, "%d items", ("x",), None)
        assert logger.filter(other)  # whatever is wrong with it
    finally:
        logger.setLevel(logging.ERROR)


class Adapt(keras.callbacks.Callback):
    """Gives a layer low-rank adapters in the middle of a fit."""

    def on_epoch_begin(self, epoch, logs=None):
        if epoch == 1:
            self._model.get_layer("middle").enable_lora(2)


@pytest.mark.slow_on_jax
def test_a_kernel_that_lora_replaces_in_a_fit_stays_frozen(plain, data_for):
    model = compiled(plain(), eager=True)
    callback = kf.FreezeScheduler({0: 1, 1: 2, 2: 1, 3: None}, verbose=0, cache=False)
    model.fit(*data_for(model), epochs=4, verbose=0, callbacks=[Adapt(), callback])
    middle = model.get_layer("middle")
    trained = [v.name for v in middle.trainable_variables]
    assert sorted(trained) == ["bias", "lora_kernel_a", "lora_kernel_b"]


def test_a_schedule_of_many_phases_is_laid_out_once_a_fit(plain, data_for, monkeypatch):
    counted = []

    def counting(*args):
        counted.append(args)
        return timeline(*args)

    monkeypatch.setattr(fit_plan, "timeline", counting)
    schedule = FreezeSchedule(dict.fromkeys(range(20), 1))
    callback = kf.FreezeScheduler(schedule, verbose=0)
    train(compiled(plain()), data_for, callback, epochs=20, steps=1)
    assert len(counted) == 1


@pytest.mark.parametrize("schedule", ["gradual", "phases"])
def test_a_callback_writes_the_file_that_trains_like_it(schedule, plain, data_for, tmp_path):
    callbacks = {
        "gradual": kf.GradualUnfreeze(groups=["low", "middle", "head"], verbose=0),
        "phases": kf.FreezeScheduler({1: Phase(1, rates=3.0), 2: None}, rates=2.0, verbose=0),
    }
    callback, path = callbacks[schedule], tmp_path / "plan.yaml"
    ours, theirs = (compiled(plain(), eager=True) for _ in range(2))
    callback.to_yaml(path, ours, epochs=3)
    train(ours, data_for, callback, epochs=3)
    written = kf.FreezeScheduler(path, groups=callback.groups, verbose=0)
    train(theirs, data_for, written, epochs=3)
    for a, b in zip(ours.get_weights(), theirs.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
    assert "#   middle" in path.read_text()
    with pytest.raises(FileExistsError, match="overwrite=True"):
        callback.to_yaml(path, ours, epochs=3)
    callback.to_yaml(path, ours, epochs=6, overwrite=True)


def test_a_written_file_holds_what_is_reached_and_says_what_is_so(plain, tmp_path):
    path = tmp_path / "plan.yaml"
    kf.GradualUnfreeze(2).to_yaml(path, plain(), epochs=3)
    assert FreezeSchedule.from_yaml(path).starts() == (0, 2)
    callback = kf.FreezeScheduler({0: ["[lm].*"], 1: ["low"], 2: None})
    callback.to_yaml(path, plain(), epochs=3, overwrite=True)
    comments = [line for line in path.read_text().splitlines() if "# phase" in line]
    assert comments == [
        "  # phase 0, from epoch 1",
        "  # phase 1, from epoch 2: head, middle train",
        "  # phase 2, from epoch 3: head, middle, low train",
    ]
    with pytest.raises(ValueError, match=r"'lwo'.*Did you mean 'low'"):
        kf.FreezeScheduler({0: ["lwo"]}).to_yaml(path, plain(), epochs=3, overwrite=True)


UNFIT = {
    "nothing to train": ({0: 1, 2: "all"}, "leave at least one trainable variable"),
    "an unknown group": ({0: "block9"}, "block9"),
}


@pytest.mark.parametrize("by", ["the callback", "the schedule"])
@pytest.mark.parametrize("case", UNFIT)
def test_a_preview_says_what_a_fit_would_refuse(case, by, plain):
    frozen, message = UNFIT[case]
    everything = kf.policies.FreezeMatching(".")
    phases = [Phase(everything if what == "all" else what, until=2) for what in frozen.values()]
    schedule, model = FreezeSchedule(phases), plain()
    with pytest.raises(ValueError, match=message):
        if by == "the callback":
            kf.FreezeScheduler(schedule).preview(model, epochs=4)
        else:
            schedule.preview(model, epochs=4)


def test_a_preview_refuses_a_curve_that_has_no_length(plain):
    schedule = FreezeSchedule([Phase(1, until=STALL, curve=SlantedTriangular())])
    with pytest.raises(ValueError, match="the length of the phase isn't known beforehand"):
        kf.FreezeScheduler(schedule).preview(plain(), epochs=4)


class TestStandstill:
    """A group that trains for a whole phase and does not move."""

    def fit(self, build, data_for, rates, dtype="float32", **settings):
        keras.config.set_dtype_policy(dtype)
        try:
            model = build()
        finally:
            keras.config.set_dtype_policy("float32")
        model.compile(keras.optimizers.SGD(0.01), "sparse_categorical_crossentropy")
        x, y = data_for(model)
        callback = kf.FreezeScheduler({0: None}, backbone=["low", "middle"], rates=rates, verbose=0)
        model.fit(x, y, epochs=2, verbose=0, batch_size=4, callbacks=[callback], **settings)

    def test_is_warned_of_with_the_rate(self, plain, data_for):
        said = r"no weight of low has changed in phase 0, in 8 steps at a learning rate of 1\.0e-14"
        with pytest.warns(UserWarning, match=said + r".*too small for float32.* Raise it; or"):
            self.fit(plain, data_for, {"low": 1e-12, "middle": 1.0})

    def test_in_a_coarse_type_too_without_rates_of_groups(self, plain, data_for):
        with pytest.warns(UserWarning, match=r"of low has changed.*too small for bfloat16"):
            self.fit(plain, data_for, {"low": 1e-6, "middle": 1.0}, dtype="bfloat16")

    def test_at_a_high_rate_it_is_not_told_to_raise_it(self, plain, data_for):
        def dead():
            model = plain()
            model.get_layer("low").bias.assign(np.full(model.get_layer("low").bias.shape, -1e6))
            return model

        with pytest.warns(UserWarning, match=r"of low has changed.*begin anew at a lower rate"):
            self.fit(dead, data_for, {"low": 0.5, "middle": 1.0})

    def test_what_moves_is_not(self, plain, data_for):
        self.fit(plain, data_for, {"low": 1e-2, "middle": 0.1})


def test_multiples_that_look_like_rates_are_warned_of(plain, data_for):
    def fit(rates):
        model = compiled(plain(), eager=True)
        train(model, data_for, kf.FreezeScheduler({0: 0}, rates=rates, verbose=0), epochs=1)

    with pytest.warns(UserWarning, match="and no group has more than 0.01 of it. Give 1.0 to"):
        fit({"head": 1e-3, "low": 1e-5})
    for rates in ({"low": 1e-3, "head": 1.0}, {"low": 1e-3}, 2.0, None):
        fit(rates)


@pytest.mark.slow_on_jax
@pytest.mark.parametrize("best", [0, 2])
@pytest.mark.at_commit("2")
def test_the_best_epoch_ends_as_a_training_that_ended_there(best, plain, data_for):
    """With averages of weights, which Keras takes at the end."""

    class Scores(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            logs["val_loss"] = 0.0 if epoch == best else 1.0

    def train(epochs, *callbacks):
        keras.utils.set_random_seed(3)
        model = plain()
        optimizer = keras.optimizers.SGD(0.1, use_ema=True, ema_momentum=0.9)
        model.compile(optimizer, "sparse_categorical_crossentropy")
        x, y = data_for(model)
        model.fit(x, y, epochs=epochs, shuffle=False, verbose=0, callbacks=list(callbacks))
        return model

    plan = FreezeSchedule([Phase(restore_best="val_loss")])
    found = train(3, Scores(), kf.FreezeScheduler(plan, cache=False, verbose=0))
    expected = train(best + 1)
    for one, two in zip(found.get_weights(), expected.get_weights(), strict=True):
        np.testing.assert_allclose(one, two, rtol=1e-5, atol=1e-6)


@pytest.mark.slow_on_jax
def test_a_fit_that_continues_where_a_phase_ends_warns_of_nothing(plain, data_for):
    model = plain()
    model.compile(keras.optimizers.Adam(0.02), "sparse_categorical_crossentropy")
    x, y = data_for(model)
    for begin in (0, 2):
        callback = kf.GradualUnfreeze(1, total_epochs=4, verbose=0)
        model.fit(
            x,
            y,
            initial_epoch=begin,
            epochs=begin + 2,
            batch_size=8,
            verbose=0,
            callbacks=[callback],
        )
