"""Triggers are pure: which epochs and batches end a phase, from events alone."""

import itertools
import json
import math

import numpy as np
import pytest
from hypothesis import given, strategies as st

from keras_freeze.schedules import (
    AfterEpochs,
    AfterSteps,
    AllOf,
    AnyOf,
    FreezeSchedule,
    OnPlateau,
    Phase,
    Trigger,
    When,
    progress,
)
from keras_freeze.schedules.triggers import as_trigger

NAN, INF = float("nan"), float("inf")


def epochs_that_fire(trigger, epochs, steps=0):
    """Return after which epochs (0-based) a trigger holds, which continues after it has fired."""
    state, fired = trigger.begin(), []
    for number, logs in enumerate(epochs):
        state = trigger.after_steps(state, steps)
        state = trigger.after_epoch(state, logs)
        if trigger.fired(state):
            fired.append(number)
    return fired


def losses(*values, name="val_loss"):
    return [{name: value} for value in values]


def test_a_count_of_epochs_fires_at_its_last_and_stays():
    assert epochs_that_fire(AfterEpochs(3), [{}] * 5) == [2, 3, 4]


PLATEAUS = {  # a trigger, values, and the epochs after which it says that they have stalled
    "improving": (OnPlateau(patience=1), losses(4, 3, 2, 1), []),
    "stalling": (OnPlateau(patience=2), losses(4, 3, 3, 3, 3), [3, 4]),
    "rising": (OnPlateau(patience=2), losses(1, 2, 3), [2]),
    "constant": (OnPlateau(patience=2), losses(1, 1, 1, 1), [2, 3]),
    "the first value is the one to improve on": (OnPlateau(patience=1), losses(1, 2), [1]),
    "improving in time": (OnPlateau(patience=2), losses(4, 5, 3, 4, 2, 3), []),
    "back above the best": (OnPlateau(patience=3), losses(3, 5, 4, 3.5, 2), [3]),
    "an equal value is no gain": (OnPlateau(patience=1), losses(2, 2), [1]),
    "a gain of min_delta is none": (OnPlateau(patience=1, min_delta=0.25), losses(1, 0.75), [1]),
    "a larger gain is one": (OnPlateau(patience=1, min_delta=0.25), losses(1, 0.7), []),
    "small gains add up": (
        OnPlateau(patience=2, min_delta=0.25),
        losses(1, 0.875, 0.625, 0.5, 0.375),
        [4],
    ),
    "min_delta upwards": (
        OnPlateau("val_accuracy", 1, min_delta=0.25),
        losses(0.5, 0.75, 0.8, name="val_accuracy"),
        [1],
    ),
    "max by name": (
        OnPlateau("val_accuracy", 1),
        losses(0.1, 0.2, 0.2, name="val_accuracy"),
        [2],
    ),
    "max by mode": (OnPlateau("quality", 1, mode="max"), losses(1, 2, 1, name="quality"), [2]),
    "min by mode": (OnPlateau("accuracy", 1, mode="min"), losses(2, 1, 2, name="accuracy"), [2]),
    "cooldown": (OnPlateau(patience=1, cooldown=3), losses(1, 1, 1, 1), [3]),
    "cooldown of one is the first epoch": (
        OnPlateau(patience=1, cooldown=1),
        losses(1, 1),
        [1],
    ),
    "the best of the cooldown counts": (
        OnPlateau(patience=1, cooldown=2),
        losses(5, 1, 4),
        [2],
    ),
    "nan is no improvement": (OnPlateau(patience=2), losses(1, NAN, NAN, 0.5), [2]),
    "nan first": (OnPlateau(patience=2), losses(NAN, 3, 2, 1), []),
    "nan only": (OnPlateau(patience=2), losses(NAN, NAN, NAN), [1, 2]),
    "falling to minus infinity is none": (OnPlateau(patience=1), losses(1, -INF), [1]),
    "infinity first": (OnPlateau(patience=2), losses(INF, 3, 4, 5), [3]),
    "minus infinity first": (OnPlateau(patience=2), losses(-INF, 3, 2, 1), []),
    "upwards infinity first": (
        OnPlateau("acc", 2),
        losses(INF, 0.1, 0.2, 0.3, name="acc"),
        [],
    ),
    "numbers of numpy": (OnPlateau(patience=1), losses(np.float32(1), np.float64(1)), [1]),
}


@pytest.mark.parametrize("case", PLATEAUS)
def test_a_plateau(case):
    trigger, values, expected = PLATEAUS[case]
    assert epochs_that_fire(trigger, values) == expected


# Batches.

STRIDES = {  # steps, stride, batches per epoch: the batches done when it fires
    "one by one": (3, 1, 5, 3),
    "in the second epoch": (7, 1, 5, 7),
    "at the epoch's last batch": (5, 1, 5, 5),
    "with an execution": (3, 2, 6, 4),
    "with an epoch's short execution": (5, 4, 5, 5),
    "after a short execution": (6, 4, 5, 9),
}


def executions(stride, per_epoch):
    """Yield the batches of each execution of a fit, without end."""
    while True:
        for done in range(0, per_epoch, stride):
            yield min(stride, per_epoch - done)


@pytest.mark.parametrize("case", STRIDES)
def test_a_count_of_steps_fires_with_the_execution_that_reaches_it(case):
    steps, stride, per_epoch, expected = STRIDES[case]
    trigger, done = AfterSteps(steps), 0
    state = trigger.begin()
    for batches in executions(stride, per_epoch):
        if trigger.fired(state):
            break
        state, done = trigger.after_steps(state, batches), done + batches
    assert done == expected


# Combinations.


def reaches(accuracy):
    return When(lambda logs: logs["accuracy"] >= accuracy)


STALLS = OnPlateau("loss", patience=1)
LOGS = [
    {"loss": loss, "accuracy": accuracy}
    for loss, accuracy in [(5, 0.1), (4, 0.5), (4, 0.2), (3, 0.6), (3, 0.7), (3, 0.1)]
]
COMBINATIONS = {  # which of the epochs 0 to 5, with 10 steps each
    "a plateau holds until the value improves": (STALLS, [2, 4, 5]),
    "a callable holds for its epoch": (reaches(0.5), [1, 3, 4]),
    "either": (STALLS | AfterEpochs(2), [1, 2, 3, 4, 5]),
    "either, an int": (STALLS | 6, [2, 4, 5]),
    "either, an int on the left": (4 | reaches(0.5), [1, 3, 4, 5]),
    "either, a callable": (STALLS | (lambda logs: logs["accuracy"] > 0.55), [2, 3, 4, 5]),
    "either, a callable on the left": ((lambda logs: True) | STALLS, [0, 1, 2, 3, 4, 5]),
    "both": (STALLS & reaches(0.5), [4]),
    "both, an int": (STALLS & 4, [4, 5]),
    "both, an int on the left": (4 & STALLS, [4, 5]),
    "both, a callable on the left": ((lambda logs: logs["accuracy"] > 0.4) & STALLS, [4]),
    "steps": (AfterSteps(35) | STALLS, [2, 3, 4, 5]),
    "nested": ((STALLS & reaches(0.5)) | AfterSteps(60), [4, 5]),
    "nested the other way": (STALLS & (reaches(0.65) | 3), [2, 4, 5]),
    "at no time both": (reaches(0.65) & (lambda logs: logs["loss"] > 3), []),
}


@pytest.mark.parametrize("case", COMBINATIONS)
def test_combined_triggers(case):
    trigger, expected = COMBINATIONS[case]
    assert epochs_that_fire(trigger, LOGS, steps=10) == expected


def test_combinations_are_flat_where_they_mean_the_same():
    a, b, c = AfterEpochs(1), AfterSteps(2), OnPlateau()
    assert a | b | c == AnyOf((a, b, c)) == a | (b | c)
    assert a & b & c == AllOf((a, b, c))
    assert (a | b) & c == AllOf((AnyOf((a, b)), c))
    assert AnyOf([1, b]) == AnyOf((a, b))


def test_a_callable_sees_a_copy_of_the_logs():
    logs = {"loss": 1.0}
    trigger = When(lambda given: given.clear() or True)
    assert trigger.after_epoch(trigger.begin(), logs) is True
    assert logs == {"loss": 1.0}


@pytest.mark.parametrize("answer", [None, 1, "yes", [True]], ids=repr)
def test_a_callable_must_answer_yes_or_no(answer):
    trigger = When(lambda logs: answer)
    with pytest.raises(TypeError, match=r"When\(condition=\.\.\.\) must return True or False"):
        trigger.after_epoch(False, {"loss": 1.0})
    assert When(lambda logs: np.bool_(True)).after_epoch(False, {}) is True


@pytest.mark.parametrize("value", ["2", 2.0, True, None, OnPlateau], ids=repr)
def test_what_is_no_trigger(value):
    message = r"must be a trigger of keras_freeze\.schedules .*, an int \(epochs\), or a callable"
    with pytest.raises(TypeError, match=rf"^as_trigger\(trigger=\.\.\.\) {message}"):
        as_trigger(value)
    with pytest.raises(TypeError, match=rf"^Own\(until=\.\.\.\) {message}.*: until="):
        as_trigger(value, "Own", "until")
    with pytest.raises(TypeError, match=rf"^AnyOf\(triggers=\.\.\.\) {message}"):
        _ = OnPlateau() | value
    with pytest.raises(TypeError, match=rf"^AllOf\(triggers=\.\.\.\) {message}"):
        _ = value & OnPlateau()


def test_what_is_a_bad_trigger_is_named_by_the_argument_that_it_was_given_for():
    with pytest.raises(ValueError, match=r"^Phase\(until=\.\.\.\) must be a positive integer\."):
        Phase(until=0)
    with pytest.raises(TypeError, match=r"^AnyOf\(triggers=\.\.\.\) must take one argument"):
        _ = AfterEpochs(1) | (lambda: True)


def test_a_combination_must_be_given_a_sequence():
    for value in (3, {AfterEpochs(1)}, "ab", []):
        with pytest.raises(ValueError, match=r"AllOf\(triggers=\.\.\.\) must be a sequence"):
            AllOf(value)


# How long it can take.

LENGTHS = {  # with 10 batches per epoch, 4 of them done: batches at most, epochs at least
    "epochs": (AfterEpochs(3), 26, AfterEpochs(3)),
    "steps": (AfterSteps(25), 25, AfterSteps(25)),
    "a plateau": (OnPlateau(patience=2), None, AfterEpochs(3)),
    "a plateau after a cooldown": (OnPlateau(patience=2, cooldown=4), None, AfterEpochs(6)),
    "a callable": (reaches(0.5), None, AfterEpochs(1)),
    "either": (AfterEpochs(3) | AfterSteps(25), 25, AfterEpochs(3) | AfterSteps(25)),
    "either, one unknown": (AfterEpochs(3) | OnPlateau(), 26, AfterEpochs(3) | AfterEpochs(4)),
    "both": (AfterEpochs(3) & AfterSteps(25), 26, AfterEpochs(3) & AfterSteps(25)),
    "both, one unknown": (AfterEpochs(3) & reaches(1), None, AfterEpochs(3) & AfterEpochs(1)),
}


@pytest.mark.parametrize("case", LENGTHS)
def test_how_long_a_phase_lasts_at_most_and_at_least(case):
    trigger, longest, soonest = LENGTHS[case]
    assert trigger.length(10, done=4) == longest
    assert trigger.soonest() == soonest


def test_without_the_batches_of_an_epoch_no_epochs_can_be_told_in_batches():
    assert AfterEpochs(3).length(None) is None
    assert (AfterEpochs(3) | AfterSteps(25)).length(None) == 25
    assert (AfterEpochs(3) & AfterSteps(25)).length(None) is None


def test_a_constant_value_fires_a_plateau_as_soon_as_can_be():
    for patience, cooldown in itertools.product((1, 2, 3), range(5)):
        trigger = OnPlateau("loss", patience, cooldown=cooldown)
        first = epochs_that_fire(trigger, losses(*[1.0] * 12, name="loss"))[0]
        assert first + 1 == trigger.soonest().epochs


# State.


class EveryOther(Trigger):
    """A custom trigger, with nothing but what is required."""

    def fired(self, state):
        return False


def test_a_trigger_of_ones_own_needs_a_single_method():
    trigger = EveryOther()
    assert epochs_that_fire(trigger | 2, [{}] * 3) == [1, 2]
    assert trigger.length(10) is None
    assert trigger.soonest() == AfterSteps(1)
    assert FreezeSchedule([Phase("a", until=trigger), Phase()]).starts(5) == (0, None)


SIMPLE = st.one_of(
    st.integers(1, 6).map(AfterEpochs),
    st.integers(1, 30).map(AfterSteps),
    st.builds(
        OnPlateau,
        st.sampled_from(["loss", "accuracy"]),
        st.integers(1, 3),
        st.sampled_from([0.0, 0.25, 1.0]),
        st.sampled_from(["auto", "min", "max"]),
        st.integers(0, 3),
    ),
    st.sampled_from([0.5, 2.0]).map(lambda x: When(lambda logs: logs["loss"] > x)),
)
TRIGGERS = st.recursive(
    SIMPLE,
    lambda inner: st.one_of(
        st.lists(inner, min_size=1, max_size=3).map(AnyOf),
        st.lists(inner, min_size=1, max_size=3).map(AllOf),
    ),
    max_leaves=6,
)
VALUES = st.one_of(st.floats(-3, 3, width=16), st.sampled_from([NAN, INF, -INF]))
EVENTS = st.lists(
    st.one_of(
        st.integers(1, 8), st.builds(lambda a, b: {"loss": a, "accuracy": b}, VALUES, VALUES)
    ),
    max_size=12,
)


def after(trigger, state, event):
    if isinstance(event, int):
        return trigger.after_steps(state, event)
    return trigger.after_epoch(state, event)


def states(trigger, events):
    return list(
        itertools.accumulate(events, lambda s, e: after(trigger, s, e), initial=trigger.begin())
    )


@given(st.lists(TRIGGERS, min_size=1, max_size=4), EVENTS)
def test_any_and_all_fire_as_their_parts_do(parts, events):
    fired = [[part.fired(state) for state in states(part, events)] for part in parts]
    for kind, rule in ((AnyOf, any), (AllOf, all)):
        whole = kind(parts)
        found = [whole.fired(state) for state in states(whole, events)]
        assert found == [rule(column) for column in zip(*fired, strict=True)]


@given(TRIGGERS, EVENTS)
def test_a_trigger_is_a_pure_function_of_its_events(trigger, events):
    first, seen = states(trigger, events), []
    state = trigger.begin()
    for event in events:
        seen.append(json.dumps(state))
        state = after(trigger, state, event)
    assert [*seen, json.dumps(state)] == list(map(json.dumps, first))  # none changed in place


@given(TRIGGERS, EVENTS, st.integers(0, 12))
def test_a_state_survives_json_in_the_middle(trigger, events, cut):
    plain = states(trigger, events)
    state = json.loads(json.dumps(states(trigger, events[:cut])[-1]))
    for expected, event in zip(plain[cut + 1 :], events[cut:], strict=True):
        state = after(trigger, state, event)
        assert state == expected
        assert trigger.fired(state) == trigger.fired(expected)


@given(TRIGGERS, EVENTS)
def test_steps_add_up(trigger, events):
    """Batches reported at once count as one by one."""
    single = [e for event in events for e in ([1] * event if isinstance(event, int) else [event])]
    assert states(trigger, events)[-1] == states(trigger, single)[-1]


@given(TRIGGERS, EVENTS)
def test_no_trigger_fires_before_it_can(trigger, events):
    """For finite values: an infinite or missing one can make a plateau stall an epoch earlier."""
    finite = [
        {name: value if math.isfinite(value) else 0.0 for name, value in event.items()}
        if isinstance(event, dict)
        else event
        for event in events
    ]
    soonest = trigger.soonest()
    assert soonest.is_calendar
    for state, bound in zip(states(trigger, finite), states(soonest, finite), strict=True):
        assert soonest.fired(bound) or not trigger.fired(state)


def test_one_trigger_serves_two_phases_and_each_starts_over():
    trigger = OnPlateau("loss", patience=2)
    schedule = FreezeSchedule([Phase("a", until=trigger), Phase("b", until=trigger), Phase()])
    now = progress.beginning(schedule)
    for logs in losses(1, 1, 1, name="loss"):
        now = now.after_epoch(logs)
    assert now.is_over
    second = now.next()
    assert second.state == [None, 0, 0]
    for logs, is_over in zip(losses(9, 9, 9, name="loss"), (False, False, True), strict=True):
        second = second.after_epoch(logs)
        assert second.is_over == is_over
    assert now.state == [1.0, 2, 0]


# In words.


def goes_well(logs):
    return True


DESCRIPTIONS = {
    "after 1 epoch": AfterEpochs(1),
    "after 3 epochs": AfterEpochs(3),
    "after 1 step": AfterSteps(1),
    "val_loss stalls for 1 epoch": OnPlateau(patience=1),
    "when goes_well holds": When(goes_well),
    "when <lambda> holds": When(lambda logs: True),
    "loss stalls for 2 epochs, or after 9 epochs": OnPlateau("loss", 2) | 9,
    "(after 1 epoch, or after 5 steps), and when goes_well holds": (
        (AfterEpochs(1) | AfterSteps(5)) & goes_well
    ),
}


@pytest.mark.parametrize("text", DESCRIPTIONS)
def test_what_ends_a_phase_in_words(text):
    assert DESCRIPTIONS[text].describe() == text
