"""Reports of trainings: from numbers, and from fits of every kind of schedule."""

import copy
import json
import math

import keras
import numpy as np
import pytest
from effects import compiled

import keras_freeze as kf
from keras_freeze.schedules import RecordRow, ScheduleRecord
from keras_freeze.training_reports import training_report

LOW, BOTH = {"head": 1e-3}, {"low": 1e-4, "head": 1e-3}


def record(*rows, epochs=4.0):
    return ScheduleRecord("net", ("low", "head"), tuple(rows), epochs)


def row(epochs, phase, rates):
    return RecordRow(epochs, phase, "", rates, 4)


def logs(training, validation=None):
    if validation is None:
        return [{"loss": loss} for loss in training]
    return [{"loss": a, "val_loss": b} for a, b in zip(training, validation, strict=True)]


def test_what_each_phase_brought():
    ran = record(row(0.0, 0, LOW), row(2.0, 1, BOTH))
    report = training_report(ran, logs([9, 8, 7, 6], [5.0, 4.0, 3.5, 3.75]), {})
    first, second = report.phases
    assert (first.epochs, first.best, first.training) == ((1, 2), 4.0, ("head",))
    assert math.isnan(first.gain)
    assert (second.epochs, second.best, second.gain) == ((3, 4), 3.5, 0.5)
    assert second.training == ("head", "low")
    assert report.metric == "val_loss"


def test_rows_of_one_phase_whose_rates_change_are_one():
    ran = record(row(0.0, 0, LOW), row(1.0, 0, {"head": 5e-4}), row(2.0, 1, BOTH))
    report = training_report(ran, logs([4, 3, 2, 1]), {})
    assert [phase.epochs for phase in report.phases] == [(1, 2), (3, 4)]
    assert report.metric == "loss"


def test_an_epoch_in_which_a_phase_begins_counts_for_that_phase():
    """Its loss is measured at its end."""
    ran = record(row(0.0, 0, LOW), row(1.5, 1, BOTH), epochs=3.0)
    report = training_report(ran, logs([3, 2, 1], [2.0, 1.5, 1.0]), {})
    assert [phase.best for phase in report.phases] == [2.0, 1.0]


def test_weights_that_did_not_move_or_moved_too_far():
    ran, losses = record(row(0.0, 0, BOTH)), logs([4, 3, 2, 1], [4, 3, 2, 1])
    still = training_report(ran, losses, {"low": 0.0, "head": 1e-6})
    assert (still.verdict, "higher rate" in still.next_steps[0].why) == ("hardly trained", True)
    worse = logs([4, 3, 2, 1], [4, 3, 2, 3])
    far = training_report(ran, worse, {"low": 19.0, "head": 0.1})
    assert (far.verdict, "lower rate" in far.next_steps[0].why) == ("diverged", True)
    # A new head begins at small values; and what gets better goes where it should.
    assert training_report(ran, worse, {"low": 0.1, "head": 19.0}).verdict == "overfitting"
    better = training_report(ran, losses, {"low": 19.0, "head": 19.0})
    assert better.verdict == "still improving"
    lost = training_report(ran, losses, {"low": math.nan, "head": 0.1})
    assert lost.verdict == "diverged"
    assert "Weights are NaN" in str(lost)
    assert json.dumps(lost.to_dict(), allow_nan=False)


def test_a_gain_is_against_the_best_of_all_phases_before():
    ran = record(row(0.0, 0, LOW), row(1.0, 1, BOTH), row(2.0, 2, LOW), epochs=3.0)
    report = training_report(ran, logs([1, 1, 1], [2.0, 3.0, 2.5]), {})
    assert [phase.gain for phase in report.phases[1:]] == [-1.0, -0.5]
    assert [phase.gain <= 0 for phase in report.phases[1:]] == [True, True]


@pytest.mark.parametrize(
    "training, validation, verdict",
    [
        ([3.0, 2.0, 1.0], [3.0, 2.0, 2.5], "overfitting"),
        ([3.0, 2.0, 1.0], [3.0, 2.0, 2.01], "stalled"),  # within two percent
        ([3.0, 2.0, 2.6], [3.0, 2.0, 2.5], "stalled"),  # the training loss rises too
        ([3.0, 2.0, 4.0], [3.0, 2.0, 4.5], "diverged"),
        ([3.0, math.nan, math.nan], [3.0, math.nan, math.nan], "diverged"),
        ([1.0], [1.0], "unknown"),
        ([-0.9, -0.95, -0.96], [-0.9, -0.98, -0.9795], "stalled"),  # within two percent
        ([-0.9, -0.95, -0.96], [-0.9, -0.98, -0.9], "overfitting"),
        ([3.0, 2.0, 1.0], [3.0, 2.5, 2.2], "still improving"),
        ([3.0, 2.0, 1.0], None, "unknown"),
        ([3.0, 2.0], [math.nan, math.nan], "unknown"),
        ([3.0, 2.0, 1.0], [3.0, 2.0, math.nan], "still improving"),
    ],
)
def test_the_verdict(training, validation, verdict):
    ran = record(row(0.0, 0, BOTH), epochs=float(len(training)))
    report = training_report(ran, logs(training, validation), {})
    assert report.verdict == verdict
    assert report.reason.endswith(".")
    assert report.next_steps
    assert all(step.why and step.code for step in report.next_steps)


@pytest.mark.parametrize(
    "training, advice",
    [
        ([2.3, 2.25, 2.2, 2.15, 2.1], "find a higher rate"),
        ([2.3, 2.25, 2.2, 2.15], "find a higher rate"),
        ([2.3, 1.8, 1.5, 1.4, 1.3], "train longer"),
        ([2.3, 2.2, 2.1], "train longer"),  # too few to tell
    ],
)
def test_a_loss_that_falls_at_a_steady_pace_wants_a_higher_rate(training, advice):
    ran = record(row(0.0, 0, BOTH), epochs=float(len(training)))
    report = training_report(ran, logs(training, training), {})
    assert report.verdict == "still improving"
    assert advice in report.next_steps[0].why


def test_a_phase_that_slows_down_is_not_steady():
    ran = record(row(0.0, 0, LOW), row(4.0, 1, BOTH), epochs=8.0)
    losses = [4.0, 3.99, 3.98, 3.97, 3.0, 2.0, 1.5, 1.3]
    report = training_report(ran, logs(losses, losses), {})
    assert report.next_steps[0].why == "train longer"


def test_a_training_that_slows_down_over_its_phases_is_not_steady():
    ran = record(row(0.0, 0, LOW), row(4.0, 1, BOTH), epochs=8.0)
    losses = [2.0, 1.5, 1.2, 1.0, 0.95, 0.9, 0.85, 0.8]  # the last phase for itself would be
    assert training_report(ran, logs(losses, losses), {}).next_steps[0].why == "train longer"
    slow = [2.0 - 0.01 * n for n in range(8)]
    short = record(row(0.0, 0, LOW), row(6.0, 1, BOTH), epochs=8.0)  # too short a last phase
    assert "higher rate" in training_report(short, logs(slow, slow), {}).next_steps[0].why


def test_a_rate_that_was_too_high_is_told_by_jumps_and_distances():
    """A network that has died ends at guessing, which may be below where it began."""
    ran = record(row(0.0, 0, LOW), row(2.0, 1, BOTH))
    dead = [2.106, 5.79, 1.7, 1.618]
    lost = training_report(ran, logs(dead, [1.3, 1.4, 1.6, 1.61]), {"low": 1.95, "head": 2.1})
    assert lost.verdict == "diverged"
    assert "build the model" in lost.next_steps[0].why
    assert "5.79 at its highest" in lost.reason
    unknown = [{}, *logs(dead, [1.3, 1.4, 1.6, 1.61])]
    assert "5.79 at its highest" in training_report(ran, unknown, {}).reason
    far = training_report(ran, logs([4, 3, 2, 1], [4, 3, 2, 3]), {"low": 21.1, "head": 1.0})
    assert "21.1 times its norm" in far.reason
    assert "low 21.1 times" in str(far)


def test_a_validation_loss_that_has_levelled_off_is_no_longer_improving():
    ran = record(row(0.0, 0, BOTH), epochs=10.0)
    flat = [1.0, 0.5, 0.3, 0.2, 0.15, 0.1485, 0.1483, 0.1482, 0.1481, 0.148]
    report = training_report(ran, logs(flat, flat), {})
    assert report.verdict == "stalled"
    assert "levelled off" in report.reason
    falls = [1.0 - 0.05 * n for n in range(10)]
    assert training_report(ran, logs(falls, falls), {}).verdict == "still improving"


def test_validation_that_never_comes_to_where_training_began_points_at_its_data():
    ran = record(row(0.0, 0, BOTH))
    report = training_report(ran, logs([1.5, 0.8, 0.3, 0.1], [9.9, 8.0, 7.0, 5.9]), {})
    assert report.next_steps[0].code == "kf.check(model, x_val, y_val)"
    near = training_report(ran, logs([1.5, 0.8, 0.3, 0.1], [1.4, 1.2, 1.1, 1.0]), {})
    assert "check" not in near.next_steps[0].code
    slow = training_report(ran, logs([1.5, 1.4, 1.3, 1.2], [9.9, 8.0, 7.0, 5.9]), {})
    assert "check" not in slow.next_steps[0].code  # training has not come far either


@pytest.mark.parametrize(
    "training, validation, code",
    [
        ([1.0], [1.0], "epochs=10"),
        ([3.0, 2.0], None, "validation_data=(x_val, y_val)"),
        ([3.0, 2.0], [math.nan, math.nan], "validation_data=(x_val, y_val)"),
    ],
)
def test_what_is_missing_to_judge(training, validation, code):
    report = training_report(record(row(0.0, 0, BOTH)), logs(training, validation), {})
    assert (report.verdict, report.next_steps[0].code) == ("unknown", code)


def test_overfitting_comes_before_phases_that_brought_nothing():
    ran = record(row(0.0, 0, LOW), row(2.0, 1, BOTH))
    losses = logs([3.0, 2.0, 1.0, 0.5], [3.0, 2.0, 2.5, 3.0])
    report = training_report(ran, losses, {})
    assert report.verdict == "overfitting"
    assert "start_from_epoch=2" in report.next_steps[0].code
    # Where the fit ended before its last phase, which a second one is to reach.
    planned = training_report(ran, losses, {}, last_begins=22)
    assert "start_from_epoch=22" in planned.next_steps[0].code


def test_what_never_trained_and_what_moved():
    ran = record(row(0.0, 0, LOW))
    report = training_report(ran, logs([4, 3, 2, 2], [4, 3, 2, 2]), {"low": 0.0, "head": 0.25})
    assert report.never_trained == ("low",)
    text = str(report)
    assert "Never unfrozen: low." in text
    assert "head 25.0%" in text
    assert "hardly moved" not in text
    assert "low" not in text.split("Moved most")[1].split("\n\n")[0]
    moved = training_report(record(row(0.0, 0, BOTH)), logs([4, 3]), {"low": 1e-5, "head": 0.2})
    assert "Trained, but hardly moved: low." in str(moved)
    assert report.next_steps[0].code == 'kf.FreezeScheduler({0: None}, rates="default")'


def test_the_last_phase_is_the_one_that_was_planned(plain, data_for):
    class Overfits(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            logs.update(loss=3.0 - epoch, val_loss=abs(epoch - 1) + 1.0)
            self.model.stop_training = epoch == 2

    callback = kf.GradualUnfreeze({0: "head", 20: "middle"}, verbose=0)
    model = compiled(plain())
    x, y = data_for(model)
    model.fit(x, y, epochs=30, verbose=0, callbacks=[Overfits(), callback])
    assert callback.report.verdict == "overfitting"
    assert "start_from_epoch=20" in callback.report.next_steps[0].code


def test_as_text_html_and_data():
    report = training_report(record(row(0.0, 0, BOTH)), logs([2.0, 1.0], [2.0, 1.5]), {})
    assert max(map(len, str(report).splitlines())) <= 80
    assert "<table" in report._repr_html_()
    assert report.to_dict()["phases"][0]["gain"] is None


def fitted(callback, model, data_for, epochs=3, **arguments):
    compiled(model)
    x, y = data_for(model)
    model.fit(x, y, epochs=epochs, verbose=0, callbacks=[callback], **arguments)
    return callback.report


@pytest.mark.backend
def test_after_a_fit(plain, data_for):
    model, callback = plain(), kf.GradualUnfreeze({0: "head", 2: "middle"}, verbose=0)
    assert callback.report is None
    report = fitted(callback, model, data_for, validation_split=0.5)
    assert [phase.epochs for phase in report.phases] == [(1, 2), (3, 3)]
    assert report.never_trained == ("low",)
    assert report.moved["low"] == 0.0
    assert min(report.moved["middle"], report.moved["head"]) > 0
    assert copy.deepcopy(callback).report is None


@pytest.mark.backend
def test_how_far_groups_have_moved_is_what_numpy_says(plain, data_for):
    model = plain()

    def weights(name):
        variables = model.get_layer(name).weights
        return [np.array(keras.ops.convert_to_numpy(v.value)) for v in variables]

    arrays = {name: weights(name) for name in ("low", "middle", "head")}
    report = fitted(kf.FreezeScheduler({0: 1}, verbose=0), model, data_for)
    for name, old in arrays.items():
        pairs = zip(old, weights(name), strict=True)
        way = math.hypot(*(float(np.linalg.norm(b - a)) for a, b in pairs))
        size = math.hypot(*(float(np.linalg.norm(a)) for a in old))
        assert report.moved[name] == pytest.approx(way / size, rel=1e-4)


@pytest.mark.slow
def test_an_adaptive_training_and_a_race(plain, data_for):
    settling = kf.AutoFreeze(intervals=3, verbose=0)
    assert fitted(settling, plain(), data_for, epochs=4).phases
    race = kf.GradualUnfreeze("auto", verbose=0)
    model = plain()
    report = fitted(race, model, data_for, epochs=9, validation_split=0.5)
    history = model.history.history
    (winner,) = report.phases
    depth = race.decisions.freeze_depth
    own = [
        value
        for value, at in zip(history["val_loss"], history["freeze_depth"], strict=True)
        if at == depth
    ]
    assert winner.epochs == (1, len(own))
    assert winner.best == pytest.approx(min(own))
    assert winner.training == tuple(reversed(("low", "middle", "head")[depth:]))
    assert report.never_trained == ("low", "middle", "head")[:depth]
    assert report.verdict != "unknown"
    assert report.reason.startswith(f"{race.decisions.verdict}. Of the {len(own)} epochs at this")
    assert f"{{0: {race.decisions.freeze_depth or None}}}" in report.next_steps[0].code


@pytest.mark.slow
def test_a_training_that_was_interrupted_reports_all_of_it(plain, data_for, tmp_path):
    """As one that was not, phases, losses and movement."""

    class Stop(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            if epoch == 1:
                raise KeyboardInterrupt

    def train(*others):
        model = plain()
        compiled(model)
        callback = kf.GradualUnfreeze(1, verbose=0)
        callbacks = [callback, *others]
        x, y = data_for(model)
        model.fit(x, y, epochs=4, verbose=0, shuffle=False, callbacks=callbacks)
        return callback.report

    whole = train()
    with pytest.raises(KeyboardInterrupt):
        train(kf.BackupAndRestore(tmp_path), Stop())
    resumed = train(kf.BackupAndRestore(tmp_path))
    assert resumed.to_dict() == whole.to_dict()


SLOW_STARTS = {
    "planned": (lambda: kf.GradualUnfreeze(1), 1e-7, "x, y, schedule=callback)"),
    "race": (lambda: kf.GradualUnfreeze("auto"), 1e-7, "x, y, schedule=kf.GradualUnfreeze())"),
    "settling": (lambda: kf.AutoFreeze(intervals=2), 1e-7, "x, y)"),
    "decaying": (
        lambda: kf.GradualUnfreeze(1),
        keras.optimizers.schedules.CosineDecay(1e-7, 9),
        "x, y, schedule=callback), compiled with one number as the learning rate",
    ),
}


def at_too_low_a_rate(case, build):
    """Return the next step after a fit, and what its code needs."""
    make, rate, _ = SLOW_STARTS[case]
    model, callback = build(), make()
    callback.verbose = 0
    x = np.random.default_rng(0).normal(size=(64, 4)).astype("float32")
    y = (x[:, 0] > 0).astype(int)
    model.compile(keras.optimizers.Adam(rate), "sparse_categorical_crossentropy")
    model.fit(x, y, epochs=9, verbose=0, callbacks=[callback], validation_data=(x, y))
    assert callback.report.verdict == "hardly trained"
    (step,) = callback.report.next_steps
    return step, {"kf": kf, "callback": callback, "model": model, "x": x, "y": y}


@pytest.mark.parametrize("case", SLOW_STARTS)
def test_a_higher_rate_is_looked_for_as_the_schedule_allows(case, plain):
    step, _ = at_too_low_a_rate(case, plain)
    assert step.code == f"kf.find_learning_rate(model, {SLOW_STARTS[case][2]}"


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:find_learning_rate")
@pytest.mark.parametrize("case", ["planned", "race", "settling"])
def test_the_code_that_finds_a_rate_runs(case, plain):
    step, names = at_too_low_a_rate(case, plain)
    assert eval(step.code, names).tests
