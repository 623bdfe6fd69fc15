"""What has trained in a fit, when and at which rates, for every kind of schedule."""

import keras
import numpy as np
import pytest
from pretrained_models import as_if_trained

import keras_freeze as kf
from keras_freeze.callbacks.run_record import Part, RunRecord
from keras_freeze.schedules import (
    AfterSteps,
    Auto,
    Cosine,
    FreezeSchedule,
    OnPlateau,
    Phase,
    RecordRow,
)

LAYERS = ("low", "middle", "high")
ROWS, BATCH = 16, 4  # four batches an epoch


def build():
    keras.utils.set_random_seed(1)
    layers = [keras.layers.Dense(8, activation="tanh", name=name) for name in LAYERS]
    layers = [keras.Input((6,)), *layers, keras.layers.Dense(2, name="head")]
    model = keras.Sequential(layers, name="net")
    # Eagerly, since a transition would trace the step again.
    model.compile(keras.optimizers.SGD(0.1), "mse", run_eagerly=True)
    return as_if_trained(model)


def fit(callback, epochs, model=None, beside=(), **arguments):
    model = build() if model is None else model
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(ROWS, 6)), rng.normal(size=(ROWS, 2))
    settings = {"batch_size": BATCH, "shuffle": False, "verbose": 0, **arguments}
    model.fit(x, y, epochs=epochs, callbacks=[callback, *beside], **settings)
    return callback.record


def scheduler(schedule, **arguments):
    arguments = {"backbone": list(LAYERS), "cache": False, "verbose": 0, **arguments}
    return kf.FreezeScheduler(schedule, **arguments)


def begins(record):
    return [(row.epochs, row.phase, row.after) for row in record.rows]


def training(record):
    return [list(row.rates) for row in record.rows]


@pytest.mark.backend
@pytest.mark.slow_on_jax
def test_phases_in_the_middle_of_epochs_with_their_rates():
    plan = FreezeSchedule(
        [Phase(3, until=AfterSteps(6) | 9), Phase(1, until=1, rates=2.0), Phase(2)]
    )
    callback = scheduler(plan)
    assert callback.record is None
    record = fit(callback, 4)
    assert begins(record) == [(0, 0, ""), (1.5, 1, "after 6 steps"), (2, 2, "after 1 epoch")]
    assert training(record) == [["head"], ["middle", "high", "head"], ["high", "head"]]
    assert list(record.rows[1].rates.values()) == pytest.approx([0.025, 0.05, 0.1])
    assert [row.trainable_params for row in record.rows] == [18, 162, 90]
    assert (record.epochs, record.groups) == (4, (*LAYERS, "head"))
    assert not record.are_multiples


def test_a_metric_ends_a_phase_and_is_named():
    record = fit(scheduler(FreezeSchedule([Phase(3, until=OnPlateau("loss", 1) | 2), Phase()])), 3)
    assert begins(record) == [(0, 0, ""), (2, 1, "after 2 epochs")]
    never = OnPlateau("loss", 1, min_delta=1e9)
    record = fit(scheduler(FreezeSchedule([Phase(3, until=never | 9), Phase()])), 3)
    assert begins(record) == [(0, 0, ""), (2, 1, "loss stalls for 1 epoch")]


def test_a_rate_that_another_callback_sets_counts_from_its_epoch():
    halving = keras.callbacks.LearningRateScheduler(lambda epoch: 0.1 if epoch < 2 else 0.05)
    record = fit(scheduler({0: 2}), 4, beside=[halving])
    assert begins(record) == [(0, 0, ""), (2, 0, "")]
    assert [row.rates["head"] for row in record.rows] == pytest.approx([0.1, 0.05])


@pytest.mark.backend
def test_a_curve_counts_by_its_mean_in_each_epoch():
    plan = FreezeSchedule([Phase(2, curve=Cosine(8))])
    record = fit(scheduler(plan), 2)
    factor = 0.5 * (1 + np.cos(np.pi * np.arange(8) / 8))
    expected = [0.1 * factor[:4].mean(), 0.1 * factor[4:].mean()]
    assert [row.rates["high"] for row in record.rows] == pytest.approx(expected, rel=1e-4)
    assert begins(record) == [(0, 0, ""), (1, 0, "")]


def test_before_a_schedule_begins_what_the_flags_say_trains():
    model = build()
    kf.freeze(model, layers=["low"])
    record = fit(scheduler(FreezeSchedule([Phase(3)], start=1)), 2, model)
    assert begins(record) == [(0, -1, ""), (1, 0, "after 1 epoch")]
    assert training(record) == [["middle", "high", "head"], ["head"]]


def frozen_by_epoch(record, epochs):
    """Return how many groups are frozen in the middle of each epoch."""
    counts = []
    for epoch in range(epochs):
        row = [row for row in record.rows if row.epochs <= epoch + 0.5][-1]
        counts.append(len(record.groups) - len(row.rates))
    return counts


@pytest.mark.backend
@pytest.mark.slow_on_jax
def test_a_race_freezes_groups_again():
    race = Auto(monitor="loss", budget=0.75)
    callback = kf.GradualUnfreeze(race, backbone=list(LAYERS), cache=False, verbose=0)
    seen = []
    beside = keras.callbacks.LambdaCallback(on_epoch_end=lambda _, logs: seen.append(dict(logs)))
    record = fit(callback, 8, beside=[beside])
    depths = [logs["freeze_depth"] for logs in seen]
    assert frozen_by_epoch(record, 8) == depths
    assert depths[:4] == [3, 2, 1, 0]
    assert depths != sorted(depths, reverse=True)  # some depth is trained again
    assert begins(record)[1] == (1, 1, "after 1 epoch")
    assert "wins" in record.rows[-1].after


def test_intervals_that_freeze_nothing_are_no_rows():
    callback = kf.AutoFreeze(
        intervals=8, percentile=90, backbone=list(LAYERS), cache=False, verbose=0
    )
    record = fit(callback, 4)
    freezing = {row.epochs for row in callback.decisions.rows}
    assert freezing
    assert [row.epochs for row in record.rows] == [0, *sorted(freezing)]
    assert all("freezes" in row.after for row in record.rows[1:])


def test_a_model_without_a_single_rate_has_multiples():
    model = build()
    low = keras.optimizers.SGD(0.1)
    high = keras.optimizers.SGD(0.2)
    model.compile(
        keras.optimizers.MultiOptimizer(lambda variable: low if "low" in variable.path else high),
        "mse",
        run_eagerly=True,
    )
    record = fit(scheduler({0: 2}, rates=2.0), 1, model)
    assert record.are_multiples
    assert record.rows[0].rates == {"high": 0.5, "head": 1.0}


class Stop(keras.callbacks.Callback):
    def on_epoch_begin(self, epoch, logs=None):
        if epoch == 3:
            raise KeyboardInterrupt


def test_a_resumed_fit_has_the_whole_record(tmp_path):
    def callback():
        return scheduler(
            FreezeSchedule([Phase(3, until=AfterSteps(6)), Phase(1, until=2), Phase()])
        )

    whole = fit(callback(), 5)
    with pytest.raises(KeyboardInterrupt):
        fit(callback(), 5, beside=[kf.BackupAndRestore(tmp_path), Stop()])
    resumed = fit(callback(), 5, beside=[kf.BackupAndRestore(tmp_path)])
    assert resumed == whole
    assert len(whole.rows) == 3


def test_parts_of_no_batch_leave_their_reason_to_the_next():
    record = RunRecord()
    record.present = Part(0, 0, {"head": 0.1}, 5, 0)
    record.end_part(2, {})
    record.end_phase("after 2 steps")
    record.present = Part(2, 1, {"head": 0.2}, 5, 2)
    record.end_part(2, {})
    record.end_phase("at once")
    record.present = Part(2, 2, {"head": 0.4}, 5, 2)
    record.end_part(4, {"head": 0.5})
    record.end_epoch(1, 4)
    record.present = Part(0, 2, {"head": 0.8}, 5, 4)
    record.end_part(4, {})
    record.end_epoch(2, 4)
    assert record.rows == [
        RecordRow(1.0, 0, "", {"head": 0.1}, 5),
        RecordRow(1.5, 2, "after 2 steps; at once", {"head": 0.2}, 5),
        RecordRow(2.0, 2, "", {"head": 0.8}, 5),
    ]
    assert record.epochs == 3
