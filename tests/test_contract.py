"""What holds of every public callback, policy, trigger, curve, phase and schedule.

A new class needs one row in `VALUES` or `CALLBACKS`; the first test fails until it has one.
"""

import copy
import dataclasses
import inspect
import json
import pickle

import keras
import numpy as np
import pytest
from effects import compiled

import keras_freeze as kf
from keras_freeze import policies, schedules
from keras_freeze.policies import (
    FreezeBefore,
    FreezeFirst,
    FreezeGroups,
    FreezeLayers,
    FreezeMatching,
    FreezePolicy,
    FreezeWeights,
    FreezeWhere,
)
from keras_freeze.schedules import (
    AfterEpochs,
    AfterSteps,
    AllOf,
    Annealing,
    AnyOf,
    Cosine,
    Curve,
    FreezeSchedule,
    OnPlateau,
    Phase,
    SlantedTriangular,
    Trigger,
    Warmup,
    When,
    yaml_file,
)


def is_bias(variable, layer):
    return variable.name == "bias"


def stalls(logs):
    return logs["value"] > 1


#: An example of each class of values, and another that differs in one argument.
VALUES = {
    FreezeFirst: (FreezeFirst(2), FreezeFirst(1)),
    FreezeGroups: (FreezeGroups(["low"]), FreezeGroups(["low", "middle"])),
    FreezeBefore: (FreezeBefore("head"), FreezeBefore("middle")),
    FreezeLayers: (FreezeLayers([0, "middle"]), FreezeLayers([0])),
    FreezeMatching: (FreezeMatching("^low"), FreezeMatching("^lo")),
    FreezeWeights: (FreezeWeights("kernel", FreezeFirst(2)), FreezeWeights("kernel")),
    FreezeWhere: (FreezeWhere(is_bias), FreezeWhere(lambda variable, layer: False)),
    AfterEpochs: (AfterEpochs(2), AfterEpochs(3)),
    AfterSteps: (AfterSteps(3), AfterSteps(2)),
    OnPlateau: (OnPlateau("value", 1, mode="min"), OnPlateau("value", 1, mode="max")),
    When: (When(stalls), When(lambda logs: True)),
    AnyOf: (AnyOf((AfterEpochs(2), AfterSteps(3))), AnyOf((AfterEpochs(2),))),
    AllOf: (AllOf((AfterEpochs(1), AfterSteps(3))), AllOf((AfterEpochs(1), AfterSteps(2)))),
    Warmup: (Warmup(3), Warmup(2)),
    SlantedTriangular: (SlantedTriangular(5), SlantedTriangular(5, ratio=2.0)),
    Cosine: (Cosine(), Cosine(floor=0.1)),
    Annealing: (Annealing({"low": 0.5}), Annealing({"low": 0.6})),
    Phase: (
        Phase("low", rates=2.0, batch_norm="follow", until=2, weights="kernel", curve=Cosine()),
        Phase("low", rates=2.0, batch_norm="follow", until=2, weights="kernel"),
    ),
    FreezeSchedule: (
        FreezeSchedule([Phase("low", until=1), Phase("head", until=AfterSteps(3)), Phase(1)]),
        FreezeSchedule([Phase("low", until=1), Phase("head", until=AfterSteps(3)), Phase(2)]),
    ),
}
#: These hold a function, which neither a file nor a representation can.
WITH_CODE = {FreezeWhere, When}


#: What makes each callback, given a folder of its own.
CALLBACKS = {
    kf.FreezeScheduler: lambda folder: kf.FreezeScheduler(
        VALUES[FreezeSchedule][0], rates={"low": 0.5}, log_details=True, verbose=0
    ),
    kf.GradualUnfreeze: lambda folder: kf.GradualUnfreeze(
        OnPlateau("value", 1, mode="min") | 2, groups={"body": "low|middle", "top": "head"}
    ),
    kf.AutoFreeze: lambda folder: kf.AutoFreeze(
        intervals=3, percentile=80, groups={"body": "low|middle", "top": "head"}
    ),
    kf.ProgressiveFreeze: lambda folder: kf.ProgressiveFreeze(
        first=0.5, groups={"body": "low|middle", "top": "head"}
    ),
    kf.BackupAndRestore: lambda folder: kf.BackupAndRestore(str(folder), delete_checkpoint=True),
    kf.FreezeGuard: lambda folder: kf.FreezeGuard(2, action="warn"),
    kf.MaxNorm: lambda folder: kf.MaxNorm(
        {"body": 2.0}, groups={"body": "low|middle", "top": "head"}
    ),
    kf.LiveView: lambda folder: kf.LiveView("lines", metric="value", interval_s=0.5),
    kf.PrefixCache: lambda folder: kf.PrefixCache(0, str(folder), auto=False, verbose=0),
}


def test_every_exported_class_has_an_example():
    kinds = (keras.callbacks.Callback, FreezePolicy, Trigger, Curve, Phase, FreezeSchedule)
    exported = {
        value
        for module in (kf, policies, schedules)
        for value in map(vars(module).get, module.__all__)
        if isinstance(value, type) and issubclass(value, kinds) and not inspect.isabstract(value)
    }
    # TopGradient holds data, which neither its representation nor a file shows.
    apart = {policies.FreezePolicy, schedules.TopGradient}
    assert exported - apart == {*VALUES, *CALLBACKS}


def by_name(classes, on_every_backend=(), slow=()):
    def marks(cls):
        return [
            *([pytest.mark.backend] if cls in on_every_backend else []),
            *([pytest.mark.slow] if cls in slow else []),
        ]

    cases = [pytest.param(cls, id=cls.__name__, marks=marks(cls)) for cls in classes]
    return pytest.mark.parametrize("cls", cases)


# Values.


@by_name(VALUES)
@pytest.mark.parametrize(
    "clone",
    [copy.copy, copy.deepcopy, lambda value: pickle.loads(pickle.dumps(value))],
    ids=["copy", "deepcopy", "pickle"],
)
def test_a_copy_of_a_value_equals_it(cls, clone):
    value, other = VALUES[cls]
    twin = clone(value)
    assert twin == value
    assert hash(twin) == hash(value)
    assert repr(twin) == repr(value)
    assert value != other
    assert repr(value) != repr(other)
    assert value != "something else"


@by_name(VALUES)
def test_the_representation_of_a_value_is_its_call(cls):
    scope = {**vars(schedules), **vars(policies)}
    for value in VALUES[cls]:
        if cls in WITH_CODE:
            assert repr(value).startswith(f"{cls.__name__}(")
        else:
            assert eval(repr(value), scope) == value


@by_name(VALUES)
def test_a_value_can_not_be_changed(cls):
    value, _ = VALUES[cls]
    for field in dataclasses.fields(value):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(value, field.name, None)


def schedule_with(value):
    """Return a schedule in which a value plays its part."""
    if isinstance(value, FreezeSchedule):
        return value
    if isinstance(value, Phase):
        return FreezeSchedule([value, Phase()])
    if isinstance(value, FreezePolicy):
        return FreezeSchedule([Phase(value, until=2), Phase()])
    if isinstance(value, Curve):
        return FreezeSchedule([Phase("low", until=2, curve=value), Phase()])
    return FreezeSchedule([Phase("low", until=value), Phase()])


@by_name(VALUES)
def test_a_value_comes_back_from_plain_data_and_from_yaml(cls, tmp_path):
    for value in VALUES[cls]:
        schedule, path = schedule_with(value), tmp_path / "plan.yaml"
        if cls in WITH_CODE:
            with pytest.raises(TypeError, match="A schedule in a file must have"):
                schedule.to_yaml(path)
            continue
        assert FreezeSchedule.from_dict(json.loads(json.dumps(schedule.to_dict()))) == schedule
        schedule.to_yaml(path, overwrite=True)
        assert FreezeSchedule.from_yaml(path) == schedule
        assert yaml_file.dumps(FreezeSchedule.from_yaml(path), path.name) == path.read_text()


# In fits.

EPOCHS, SERIES = 3, [2, 3, 1]


class Values(keras.callbacks.Callback):
    """Puts a value for each epoch into the logs."""

    def on_epoch_end(self, epoch, logs=None):
        logs["value"] = SERIES[epoch]


def train(model, data_for, callbacks, begin=0, end=EPOCHS):
    """Fit, and return what Keras logged of each epoch."""
    history = model.fit(
        *data_for(model),
        initial_epoch=begin,
        epochs=end,
        batch_size=8,
        shuffle=False,
        verbose=0,
        callbacks=[Values(), *callbacks],
    )
    return history.history


def fresh(plain):
    return compiled(plain(), keras.optimizers.Adam(0.02), eager=True)


def assert_same(ours, theirs):
    for a, b in zip(ours.get_weights(), theirs.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-7)
    assert [v.trainable for v in ours.weights] == [v.trainable for v in theirs.weights]


def joined(*histories):
    return {name: [x for h in histories for x in h[name]] for name in histories[0]}


def assert_same_history(ours, theirs):
    assert list(ours) == list(theirs)
    for name, values in ours.items():
        assert values == pytest.approx(theirs[name]), name


# Of each kind of value one trains at every commit.
TRAINED = (FreezeSchedule, FreezeMatching, OnPlateau, AllOf, SlantedTriangular)


@by_name(VALUES, on_every_backend=TRAINED[:2], slow=VALUES.keys() - set(TRAINED))
@pytest.mark.filterwarnings("ignore:.*ends with flags of single variables:UserWarning")
@pytest.mark.at_commit("OnPlateau", "FreezeSchedule")
def test_a_value_serves_fits_that_continue_and_that_start_over(cls, plain, data_for):
    value, _ = VALUES[cls]
    before, twin = repr(value), copy.deepcopy(value)
    whole, parts = fresh(plain), fresh(plain)
    ours = kf.FreezeScheduler(schedule_with(value), verbose=0)
    theirs = kf.FreezeScheduler(schedule_with(twin), total_epochs=EPOCHS, verbose=0)
    expected = train(whole, data_for, [ours])
    first = train(parts, data_for, [theirs], 0, 1)
    second = train(parts, data_for, [theirs], 1)
    assert_same_history(joined(first, second), expected)
    assert_same(parts, whole)
    assert_same_history(train(whole, data_for, [ours]), train(parts, data_for, [theirs]))
    assert_same(parts, whole)
    assert len(set(expected["trainable_params"])) > 1
    assert repr(value) == before


@by_name(CALLBACKS)
def test_a_callback_copies_and_prints_as_its_call(cls, tmp_path):
    callback = CALLBACKS[cls](tmp_path)
    scope = {**vars(schedules), **vars(policies), **vars(kf)}
    for twin in (
        copy.deepcopy(callback),
        copy.copy(callback),
        pickle.loads(pickle.dumps(callback)),
        eval(repr(callback), scope),
    ):
        assert type(twin) is cls
        for name in inspect.signature(cls).parameters:
            assert getattr(twin, name) == getattr(callback, name)
        assert repr(twin) == repr(callback)


@by_name(CALLBACKS, on_every_backend=CALLBACKS)
@pytest.mark.at_commit("FreezeScheduler")
def test_a_callback_serves_two_fits_and_a_copy_made_in_between_is_like_new(
    cls, plain, data_for, tmp_path
):
    callback, new = CALLBACKS[cls](tmp_path / "ours"), CALLBACKS[cls](tmp_path / "theirs")
    ours, theirs = fresh(plain), fresh(plain)
    copies = []
    take = keras.callbacks.LambdaCallback(
        on_epoch_end=lambda epoch, logs: copies.append(copy.deepcopy(callback))
    )
    first = train(ours, data_for, [callback, take])
    assert len(first["loss"]) == EPOCHS
    assert_same_history(train(theirs, data_for, [copies[1]]), first)
    assert_same(ours, theirs)
    assert_same_history(train(ours, data_for, [callback]), train(theirs, data_for, [new]))
    assert_same(ours, theirs)


# AutoFreeze decides within one fit.
@by_name([cls for cls in CALLBACKS if cls is not kf.AutoFreeze], on_every_backend=CALLBACKS)
@pytest.mark.at_commit("GradualUnfreeze", "BackupAndRestore", "PrefixCache")
@pytest.mark.slow_on_jax
def test_with_any_callback_two_fits_equal_one(cls, plain, data_for, tmp_path):
    whole, parts = fresh(plain), fresh(plain)
    expected = train(whole, data_for, [CALLBACKS[cls](tmp_path / "whole")])
    callback = CALLBACKS[cls](tmp_path / "parts")
    if hasattr(callback, "total_epochs"):
        callback.total_epochs = EPOCHS
    first = train(parts, data_for, [callback], 0, 2)
    second = train(parts, data_for, [callback], 2)
    assert_same_history(joined(first, second), expected)
    assert_same(parts, whole)
