"""The callback: when it shows what, with a clock of the test's own and a display that records."""

import copy
import gc
import pickle
import warnings

import keras
import numpy as np
import pytest
from effects import compiled

import keras_freeze as kf
from keras_freeze.live import view as view_module
from keras_freeze.live.displays import Display, Occasion
from keras_freeze.live.status import FitState, GroupState
from keras_freeze.schedules import AfterSteps, FreezeSchedule, Moment, OnPlateau, Phase

EPOCHS = 3
PARAMS = {"epochs": 1, "steps": 2, "verbose": 1}


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


class Recorder(Display):
    """Keeps what it is to show."""

    def __init__(self, *, is_redrawn=True, keeps_lines=True, takes_s=0.0, clock=None):
        self.is_redrawn, self.keeps_lines = is_redrawn, keeps_lines
        self.shown, self.said, self.closed = [], [], 0
        self.takes_s, self.clock, self.error = takes_s, clock, None

    def show(self, status, occasion):
        if self.error is not None:
            raise self.error
        if self.clock is not None:
            self.clock.now += self.takes_s
        self.shown.append((occasion, status))

    def say(self, line, *, in_epoch):
        self.said.append((line, in_epoch))

    def close(self):
        self.closed += 1

    @property
    def last(self):
        return self.shown[-1][1]

    def count(self, occasion):
        return [found for found, _ in self.shown].count(occasion)


@pytest.fixture
def view_on(monkeypatch):
    """Return a function that makes a view, with a clock that stands still, on a recorder."""

    def make(recorder, **settings):
        monkeypatch.setattr(view_module, "display_for", lambda form, **_: recorder)
        view = kf.LiveView(interval_s=0.0, **settings)
        view.clock = recorder.clock or Clock()
        return view

    return make


def fit(model, data_for, callbacks, epochs=EPOCHS, **settings):
    x, y = data_for(model)
    settings = {"verbose": 0, "batch_size": 8, **settings}
    if settings.pop("validates", False):
        settings["validation_data"] = x, y
    return model.fit(x, y, epochs=epochs, callbacks=callbacks, **settings)


def gradual(**settings):
    settings = {"rates": {"middle": 0.5, "low": 0.5}, "cache": False, "verbose": 0, **settings}
    return kf.GradualUnfreeze({0: "head", 1: "middle"}, **settings)


def fresh(plain):
    return compiled(plain(), keras.optimizers.SGD(0.1), eager=True)


@pytest.mark.backend
@pytest.mark.parametrize("is_first", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_what_a_fit_shows(plain, data_for, view_on, is_first):
    recorder = Recorder()
    pair = [view_on(recorder), gradual()]
    pair = pair if is_first else pair[::-1]
    history = fit(fresh(plain), data_for, pair, validates=True).history
    occasion, status = recorder.shown[-1]
    assert occasion is Occasion.END
    assert (status.state, status.now, status.epochs, status.steps) == (
        FitState.DONE,
        Moment(3),
        3,
        2,
    )
    assert [(g.label, g.state, g.params) for g in status.groups] == [
        ("low", GroupState.FROZEN, 30),
        ("middle", GroupState.TRAINS, 35),
        ("head", GroupState.TRAINS, 18),
    ]
    assert [g.rate for g in status.groups] == [None, pytest.approx(0.05), pytest.approx(0.1)]
    assert status.transitions == (1.0,)
    (loss,) = status.curves
    assert list(loss.training) == history["loss"]
    assert list(loss.validation) == history["val_loss"]
    assert any("middle unfreezes at 5.0e-02" in line for line in status.log)
    assert recorder.closed == 1
    phases = [s for o, s in recorder.shown if o is Occasion.PHASE]
    assert [s.now for s in phases] == [Moment(0), Moment(1)]
    assert [s.phase.index for s in phases] == [0, 1]
    assert [s.phase.end for s in phases] == [Moment(1), Moment(3)]
    assert [s.phase.ends for s in phases] == ["after 1 epoch", "with the fit"]
    assert {s.phase.count for s in phases} == {2}
    assert recorder.count(Occasion.EPOCH) == EPOCHS


def test_lines_of_a_schedule_are_printed_once(plain, data_for, view_on, capsys):
    printed = Recorder(keeps_lines=False)
    fit(fresh(plain), data_for, [gradual(verbose=1), view_on(printed)], epochs=2)
    assert tuple(line for line, _ in printed.said) == printed.last.log
    assert len(printed.last.log) > 2
    silent = Recorder(keeps_lines=False)
    fit(fresh(plain), data_for, [gradual(), view_on(silent)], epochs=2)
    assert silent.said == []
    assert silent.last.log == printed.last.log
    assert capsys.readouterr().out == ""


def drive(view, model, clock, *, steps, step_s, epochs=1, has_validation=False):
    """Call a view as Keras does, with steps that take a given time."""
    view.set_params({"epochs": epochs, "steps": steps, "verbose": 0})
    view.set_model(model)
    view.on_train_begin()
    for epoch in range(epochs):
        view.on_epoch_begin(epoch)
        for batch in range(steps):
            view.on_train_batch_begin(batch)
            clock.now += step_s
        view.on_epoch_end(epoch, {"loss": 1.0 / (epoch + 1)})
    view.on_train_end()


def test_it_is_updated_once_in_a_while(plain, view_on):
    clock = Clock()
    recorder = Recorder(clock=clock)
    view = view_on(recorder)
    view.interval_s = 1.0
    drive(view, fresh(plain), clock, steps=80, step_s=0.125)
    assert recorder.count(Occasion.STEP) == 9  # in ten seconds, of which the first shows the phase
    assert recorder.count(Occasion.PHASE) == recorder.count(Occasion.EPOCH) == 1
    assert recorder.count(Occasion.END) == 1


def test_it_takes_one_percent_of_the_time_at_most(plain, view_on):
    clock = Clock()
    recorder = Recorder(clock=clock, takes_s=0.25)
    drive(view_on(recorder), fresh(plain), clock, steps=100, step_s=1.0)
    assert 4 <= recorder.count(Occasion.STEP) <= 6
    assert recorder.last.state is FitState.DONE


def test_what_is_printed_is_printed_after_each_epoch(plain, view_on):
    clock = Clock()
    recorder = Recorder(is_redrawn=False, clock=clock, takes_s=10.0)
    drive(view_on(recorder), fresh(plain), clock, steps=2, step_s=1.0, epochs=3)
    assert [occasion for occasion, _ in recorder.shown] == [
        Occasion.PHASE,
        Occasion.EPOCH,
        Occasion.EPOCH,
        Occasion.EPOCH,
        Occasion.END,
    ]
    lines = [status for occasion, status in recorder.shown if occasion is Occasion.EPOCH]
    assert [status.now for status in lines] == [Moment(1), Moment(2), Moment(3)]


def test_time_left_is_that_of_the_steps_so_far(plain, view_on):
    clock = Clock()
    recorder = Recorder(clock=clock)
    drive(view_on(recorder), fresh(plain), clock, steps=10, step_s=2.0, epochs=3)
    left = {status.now: status.fit_left_s for _, status in recorder.shown}
    assert left[Moment(0)] is None
    assert left[Moment(0, 5)] == 50.0
    assert left[Moment(1)] == 40.0
    assert left[Moment(2, 9)] == 2.0


def test_without_a_schedule_it_shows_the_groups_of_the_model(batch_norm, data_for, view_on):
    model = compiled(batch_norm(), keras.optimizers.SGD(0.1), eager=True)
    kf.freeze(model, before="block2_conv", batch_norm="frozen")
    recorder = Recorder()
    fit(model, data_for, [view_on(recorder)], epochs=1)
    names = [group.label for group in kf.layer_groups(model)]
    assert [group.label for group in recorder.last.groups] == names
    states = {group.label: group.state for group in recorder.last.groups}
    assert states["block1"] is GroupState.FROZEN
    assert states["block2"] is GroupState.TRAINS  # though its BatchNormalization doesn't
    assert [group.rate for group in recorder.last.groups] == [None, *[pytest.approx(0.1)] * 2]
    assert recorder.last.phase is None


def test_a_group_may_train_in_part(plain, data_for, view_on):
    model = fresh(plain)
    kf.freeze(model, matching="low|middle", weights="kernel")
    recorder = Recorder()
    fit(model, data_for, [view_on(recorder)], epochs=1)
    states = [group.state for group in recorder.last.groups]
    assert states == [GroupState.IN_PART, GroupState.IN_PART, GroupState.TRAINS]


class Shapeless(keras.Model):
    def __init__(self):
        super().__init__()
        self.weight = self.add_weight(shape=(4, 1), name="weight")

    def call(self, x):
        return keras.ops.matmul(x, self.weight)


def test_a_model_of_any_kind_and_data_of_unknown_length(data_for, view_on):
    model = Shapeless()
    model.compile("sgd", "mse", run_eagerly=True)

    def batches():
        for _ in range(6):
            yield np.ones((4, 4), "float32"), np.ones((4, 1), "float32")

    recorder = Recorder()
    model.fit(
        batches(),
        epochs=2,
        steps_per_epoch=3,
        shuffle=False,
        verbose=0,
        callbacks=[view_on(recorder)],
    )
    assert recorder.last.state is FitState.DONE
    assert len(recorder.last.curves) == 1


def test_phases_that_begin_within_an_epoch(plain, data_for, view_on):
    recorder = Recorder()
    schedule = FreezeSchedule([Phase(2, until=AfterSteps(3)), Phase(1)])
    callback = kf.FreezeScheduler(schedule, cache=False, verbose=0)
    fit(fresh(plain), data_for, [view_on(recorder), callback], batch_size=8)
    assert recorder.last.transitions == (1.5,)
    first, second = [status for o, status in recorder.shown if o is Occasion.PHASE]
    assert first.phase.end == Moment(1, 1)
    assert second.now == Moment(1, 1)
    assert [g.state for g in second.groups].count(GroupState.FROZEN) == 1


@pytest.mark.filterwarnings("ignore:.*is not reached in 1 epochs")
def test_a_phase_that_waits_for_a_metric(plain, data_for, view_on):
    recorder = Recorder()
    callback = kf.GradualUnfreeze(OnPlateau("val_loss", 2), cache=False, verbose=0)
    fit(fresh(plain), data_for, [view_on(recorder), callback], epochs=1, validates=True)
    phase = recorder.shown[0][1].phase
    assert (phase.end, phase.waits_for) == (None, "val_loss")
    assert phase.ends == "val_loss stalls for 2 epochs"
    assert recorder.shown[0][1].may_end_early


def test_a_race_shows_its_candidates(plain, data_for, view_on):
    recorder = Recorder()
    callback = kf.GradualUnfreeze("auto", cache=False, verbose=0)
    fit(fresh(plain), data_for, [view_on(recorder), callback], epochs=6, validates=True)
    notes = {status.phase.note for _, status in recorder.shown}
    assert {"candidate: freeze depth 2", "candidate: freeze depth 0"} <= notes
    assert any("dropped" in line for line in recorder.last.log)
    assert recorder.last.phase.count is None


def test_in_the_end_it_shows_the_state_that_was_restored(plain, data_for, view_on):
    recorder, model = Recorder(), fresh(plain)
    sequence = kf.schedules.Auto("sequence", monitor="loss", patience=1, min_gain=0.99)
    callback = kf.GradualUnfreeze(sequence, cache=False, verbose=0)
    fit(model, data_for, [view_on(recorder), callback], epochs=6)
    shown = [group.state is GroupState.FROZEN for group in recorder.last.groups]
    trains = [any(v.trainable for v in g.variables) for g in kf.layer_groups(model)]
    assert shown == [not it_does for it_does in trains]
    assert recorder.last.groups != recorder.shown[-2][1].groups
    assert [group.rate is None for group in recorder.last.groups] == shown


def test_a_long_log_is_shown_in_the_end(plain, view_on):
    clock = Clock()
    recorder = Recorder(clock=clock)
    view = view_on(recorder)
    view.set_params({"epochs": 1, "steps": 1, "verbose": 0})
    view.set_model(fresh(plain))
    view.on_train_begin()
    view.say(f"line {n}" for n in range(500))
    view.on_epoch_begin(0)
    assert recorder.last.log == tuple(f"line {n}" for n in range(400, 500))
    view.on_epoch_end(0)
    view.on_train_end()
    assert len(recorder.last.log) == 500


def test_a_fit_that_stops_early(plain, data_for, view_on):
    recorder = Recorder()
    stop = keras.callbacks.EarlyStopping("loss", min_delta=9.0, patience=1)
    fit(fresh(plain), data_for, [view_on(recorder), stop], epochs=9)
    assert recorder.last.state is FitState.STOPPED
    assert recorder.last.now == Moment(2)
    assert recorder.shown[0][1].may_end_early


def test_an_error_leaves_a_final_state_and_the_next_fit_begins_anew(plain, data_for, view_on):
    recorder = Recorder()
    view, model = view_on(recorder), fresh(plain)
    fail = keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        fit(model, data_for, [view, gradual(), fail], epochs=2)
    gc.collect()
    assert recorder.last.state is FitState.INTERRUPTED  # when the fit's callbacks are released
    assert recorder.closed == 1
    fit(model, data_for, [view, gradual()], epochs=2)
    assert recorder.last.state is FitState.DONE
    assert recorder.last.transitions == (1.0,)
    assert len(recorder.last.curves[0].epochs) == 2
    first = next(s for _, s in recorder.shown[::-1] if s.now == Moment(0))
    assert first.curves == ()


def test_a_display_that_fails_is_switched_off(plain, data_for, view_on, capsys):
    recorder = Recorder()
    recorder.error = OSError("no space left")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        history = fit(fresh(plain), data_for, [view_on(recorder), gradual(verbose=1)], epochs=2)
    assert len(history.epoch) == 2
    texts = [str(w.message) for w in caught if "LiveView" in str(w.message)]
    assert texts == [
        "LiveView is switched off for the rest of this fit, since it failed: OSError: no space left"
    ]
    printed = capsys.readouterr().out.splitlines()
    assert [line.partition(" ")[0] for line in printed[:2]] == ["Backbone:", "Epoch"]
    assert "middle unfreezes" in printed[2]


def test_a_resumed_training_shows_the_epochs_before(plain, data_for, view_on, tmp_path, capsys):
    backup = kf.BackupAndRestore(tmp_path, delete_checkpoint=False)
    fit(fresh(plain), data_for, [gradual(total_epochs=EPOCHS), backup], epochs=2)
    recorder = Recorder()
    again = kf.BackupAndRestore(tmp_path, delete_checkpoint=False)
    history = fit(
        fresh(plain), data_for, [view_on(recorder), again, gradual(total_epochs=EPOCHS)]
    ).history
    assert recorder.shown[0][1].now == Moment(2)
    assert recorder.shown[0][1].curves[0].epochs == (0, 1)
    assert list(recorder.last.curves[0].training) == history["loss"]
    assert (recorder.last.first, recorder.last.state) == (2, FitState.DONE)
    complete = Recorder()
    fit(fresh(plain), data_for, [view_on(complete), again, gradual(total_epochs=EPOCHS)])
    assert complete.last.state is FitState.DONE
    assert complete.last.curves[0].epochs == (0, 1, 2)


def test_the_cache_is_shown(plain, data_for, view_on):
    recorder = Recorder()
    cache = kf.PrefixCache(auto=False, verbose=0)
    callback = kf.GradualUnfreeze({0: "head"}, cache=cache, verbose=0)
    fit(fresh(plain), data_for, [view_on(recorder), callback], epochs=2)
    texts = [status.cache for _, status in recorder.shown]
    assert any(text.startswith("cuts at middle, skips") for text in texts)
    assert "were looked up" in texts[-1]
    assert cache.state == texts[-1]
    beside = Recorder()
    model = fresh(plain)
    kf.freeze(model, before="head")
    fit(model, data_for, [kf.PrefixCache(auto=False, verbose=0), view_on(beside)], epochs=2)
    assert "were looked up" in beside.last.cache


def test_it_says_why_nothing_is_cached(plain, data_for, view_on):
    recorder, cache = Recorder(), kf.PrefixCache(verbose=0)
    assert cache.state == ""
    model = fresh(plain)
    fit(model, data_for, [cache, view_on(recorder)], epochs=1)
    assert {status.cache for _, status in recorder.shown[1:-1]} == {"", "not used in this phase"}
    kf.freeze(model, before="head")
    recorder.shown.clear()
    fit(model, data_for, [cache, view_on(recorder)], epochs=2)
    texts = {status.cache for _, status in recorder.shown}
    assert any(text.startswith("not used: the frozen part (up to middle)") for text in texts)


def test_two_views_are_refused(plain, data_for):
    with pytest.raises(ValueError, match="must contain at most one LiveView"):
        fit(fresh(plain), data_for, [kf.LiveView("lines"), kf.LiveView("lines")])


def test_in_a_notebook_it_shows_by_itself(plain, data_for, view_on, monkeypatch, capsys):
    recorder = Recorder()
    view_on(recorder)
    monkeypatch.setattr("keras_freeze.callbacks.freeze_scheduler.notebook_shell", object)
    for verbose, shows in ((1, True), (2, False)):
        recorder.shown.clear()
        callback = gradual(verbose=verbose, cache=True)
        history = fit(fresh(plain), data_for, [callback], epochs=2).history
        assert bool(recorder.shown) is shows
        printed = capsys.readouterr().out
        assert ("middle unfreezes" in printed) is ("cache: " in printed) is not shows
        if shows:
            assert recorder.last.state is FitState.DONE
            assert list(recorder.last.curves[0].training) == history["loss"]
            assert recorder.last.transitions == (1.0,)
            assert any("middle unfreezes" in line for line in recorder.last.log)


def test_a_copy_made_in_a_fit_is_like_new(plain, data_for, view_on):
    view, copies = view_on(Recorder()), []
    take = keras.callbacks.LambdaCallback(
        on_epoch_end=lambda epoch, logs: copies.append(copy.deepcopy(view))
    )
    fit(fresh(plain), data_for, [view, take], epochs=1)
    (twin,) = copies
    assert twin._run is None
    assert pickle.loads(pickle.dumps(kf.LiveView(metric="acc"))).metric == "acc"


def test_it_stands_behind_the_others_and_before_the_bar(plain, data_for):
    view = kf.LiveView("lines")
    guard, own = kf.FreezeGuard(), keras.callbacks.LambdaCallback()
    callbacks = keras.callbacks.CallbackList(
        [view, guard, own],
        add_history=True,
        add_progbar=True,
        model=fresh(plain),
        **PARAMS,
    )
    kinds = [type(callback).__name__ for callback in callbacks.callbacks]
    assert kinds == ["LambdaCallback", "LiveView", "History", "ProgbarLogger", "FreezeGuard"]


def test_steps_are_still_dispatched_asynchronously():
    hooks = {"on_batch_end", "on_train_batch_end", "on_test_batch_end", "on_predict_batch_end"}
    assert hooks.isdisjoint(vars(kf.LiveView))  # Keras looks for these


def test_the_line_of_an_epoch_stands_before_those_of_the_next(plain, data_for, view_on):
    recorder = Recorder(is_redrawn=False, keeps_lines=False)
    order = []
    recorder.say = lambda line, in_epoch: order.append(line.partition(" ")[0])
    recorder.show = lambda status, occasion: order.append(occasion)
    fit(fresh(plain), data_for, [view_on(recorder), gradual(verbose=1)], epochs=2)
    phase, epoch = Occasion.PHASE, Occasion.EPOCH
    first = ["Backbone:", "Epoch", phase, epoch, "Epoch", phase, epoch, "After"]
    assert order[: len(first)] == first
