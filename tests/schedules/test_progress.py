"""When phases begin, and where a training is in its schedule: both pure."""

import itertools
import re

import pytest
from hypothesis import given, strategies as st

from keras_freeze.schedules import (
    AfterEpochs,
    AfterSteps,
    FreezeSchedule,
    OnPlateau,
    Phase,
    Trigger,
    progress,
)
from keras_freeze.schedules.progress import (
    Moment,
    Progress,
    beginning,
    end_of_phase,
    progress_at,
    soonest,
    timeline,
)


def schedule_of(*ends, start=0):
    """Return a schedule whose phases end so; the last may be None."""
    return FreezeSchedule([Phase(until=end) for end in ends], start=start)


STEPS = AfterSteps
TIMELINES = {  # ends of the phases, batches per epoch, stride: epoch and batch of each beginning
    "epochs": (schedule_of(2, 3, None), None, 1, [(0, 0), (2, 0), (5, 0)]),
    "a late start": (schedule_of(2, None, start=3), None, 1, [(3, 0), (5, 0)]),
    "a single phase": (schedule_of(None), None, 1, [(0, 0)]),
    "steps": (schedule_of(STEPS(3), None), 5, 1, [(0, 0), (0, 3)]),
    "steps over an epoch": (schedule_of(STEPS(7), None), 5, 1, [(0, 0), (1, 2)]),
    "an epoch of steps": (schedule_of(STEPS(5), None), 5, 1, [(0, 0), (1, 0)]),
    "several in one epoch": (
        schedule_of(STEPS(1), STEPS(1), STEPS(2), None),
        5,
        1,
        [(0, 0), (0, 1), (0, 2), (0, 4)],
    ),
    "steps, then epochs": (schedule_of(STEPS(3), 1, None), 5, 1, [(0, 0), (0, 3), (1, 0)]),
    "epochs, then steps": (schedule_of(1, STEPS(6), None), 5, 1, [(0, 0), (1, 0), (2, 1)]),
    "either": (schedule_of(AfterEpochs(2) | STEPS(7), None), 5, 1, [(0, 0), (1, 2)]),
    "both": (schedule_of(AfterEpochs(1) & STEPS(7), None), 5, 1, [(0, 0), (1, 2)]),
    "both, the epochs last": (schedule_of(AfterEpochs(2) & STEPS(7), None), 5, 1, [(0, 0), (2, 0)]),
    "steps of unknown epochs": (schedule_of(2, STEPS(7), 1, None), None, 1, [(0, 0), (2, 0)]),
    "a plateau": (schedule_of(2, OnPlateau(), 1, None), 5, 1, [(0, 0), (2, 0)]),
    "a plateau in mid-epoch": (schedule_of(STEPS(3), OnPlateau(), None), 5, 1, [(0, 0), (0, 3)]),
    "a plateau with a bound": (schedule_of(OnPlateau() | 4, None), 5, 1, [(0, 0)]),
    "a last plateau in mid-epoch": (schedule_of(STEPS(3), OnPlateau()), 5, 1, [(0, 0), (0, 3)]),
    "a stride": (schedule_of(STEPS(3), None), 8, 2, [(0, 0), (0, 4)]),
    "a stride to the epoch's end": (schedule_of(STEPS(3), None), 4, 4, [(0, 0), (1, 0)]),
    "a stride that is cut short": (schedule_of(STEPS(9), None), 10, 4, [(0, 0), (1, 0)]),
    "a stride after the cut": (schedule_of(STEPS(11), None), 10, 4, [(0, 0), (1, 4)]),
    "phases of a stride": (
        schedule_of(STEPS(3), STEPS(3), None),
        8,
        2,
        [(0, 0), (0, 4), (1, 0)],
    ),
    "a stride with epochs": (schedule_of(2, None), None, 4, [(0, 0), (2, 0)]),
    "very long": (schedule_of(STEPS(10**12 + 5), 10**9, None), 10, 1, None),
}


@pytest.mark.parametrize("case", TIMELINES)
def test_when_phases_begin(case):
    schedule, steps, stride, expected = TIMELINES[case]
    found = timeline(schedule, steps, stride)
    if expected is None:
        assert found == (Moment(0), Moment(10**11, 5), Moment(10**11 + 10**9))
        return
    missing = len(schedule.phases) - len(expected)
    assert found == (*(Moment(*pair) for pair in expected), *[None] * missing)
    assert schedule.starts() == tuple(m and m.epoch for m in timeline(schedule, None))


@pytest.mark.parametrize("steps", [0, -1, 2.5, True])
def test_an_epoch_has_at_least_one_batch(steps):
    message = (
        "timeline(steps_per_epoch=...) must be a positive integer. "
        f"Received: steps_per_epoch={steps}"
    )
    with pytest.raises(ValueError, match=re.escape(message)):
        schedule_of(1, None).starts(steps)


def test_the_first_phase_may_begin_late():
    early = progress_at(schedule_of(2, None, start=3), 1, None)
    assert (early.index, early.phase, early.is_over, early.is_last) == (-1, None, False, False)
    assert early.after_epoch({}).after_epoch({}).is_over
    assert early.after_steps(9) == early
    assert progress_at(schedule_of(2, None, start=3), 3, None).index == 0


def test_a_phase_without_an_end_is_never_over():
    now = progress.beginning(schedule_of(None))
    assert now.after_steps(5).after_epoch({"loss": 1.0}) is now
    assert now.is_last
    assert not now.is_over


UNKNOWN = {  # schedule, epoch
    "in a plateau": (schedule_of(OnPlateau(), None), 1),
    "after a plateau": (schedule_of(OnPlateau(), 1, None), 9),
    "a plateau that began in mid-epoch": (schedule_of(STEPS(3), OnPlateau(), None), 1),
    "in a last plateau": (schedule_of(2, OnPlateau()), 3),
    "in a callable": (schedule_of(1, lambda logs: logs["loss"] < 1, None), 2),
}


@pytest.mark.parametrize("case", UNKNOWN)
def test_what_depends_on_logs_is_not_guessed(case):
    schedule, epoch = UNKNOWN[case]
    assert progress_at(schedule, epoch, 5) is None


def test_where_a_plateau_begins_is_known():
    schedule = schedule_of(2, OnPlateau(), None)
    assert progress_at(schedule, 2, 5) == Progress(schedule, 1, [None, 0, 0])


class EveryThousand(Trigger):
    """A custom trigger of fixed length, which tells that length."""

    is_calendar = True

    def begin(self):
        return 0

    def after_steps(self, state, steps):
        return state + steps

    def fired(self, state):
        return state >= 1000

    def length(self, steps_per_epoch, done=0):
        return 1000


def test_a_custom_trigger_may_have_a_fixed_length():
    assert timeline(schedule_of(EveryThousand(), None), 300) == (Moment(0), Moment(3, 100))
    assert timeline(schedule_of(EveryThousand(), None), None) == (Moment(0), None)


CALENDAR = st.recursive(
    st.one_of(st.integers(1, 4).map(AfterEpochs), st.integers(1, 14).map(AfterSteps)),
    lambda inner: st.one_of(
        st.builds(lambda a, b: a | b, inner, inner), st.builds(lambda a, b: a & b, inner, inner)
    ),
    max_leaves=3,
)
SCHEDULES = st.builds(
    lambda ends, last, start: schedule_of(*ends, last, start=start),
    st.lists(CALENDAR, max_size=4),
    st.one_of(st.none(), CALENDAR),
    st.integers(0, 3),
)


def play(schedule, epochs, steps, stride):
    """Return the progress at the beginning of each epoch and when phases begin, event by event."""
    now, at_epoch, begun = progress.beginning(schedule), [], {}
    if now.index == 0:
        begun[0] = Moment(0)
    for epoch in range(epochs + 1):
        for step in range(0, steps, stride):
            while now.is_over and not now.is_last:
                now = now.next()
                begun[now.index] = Moment(epoch, step)
            if step == 0:
                at_epoch.append(now)
            now = now.after_steps(min(stride, steps - step))
        now = now.after_epoch({})
    return at_epoch, begun


@given(SCHEDULES, st.integers(1, 7), st.integers(1, 3))
def test_the_timeline_equals_playing_the_events(schedule, steps, stride):
    at_epoch, begun = play(schedule, 30, steps, stride)
    moments = timeline(schedule, steps, stride)
    assert {n: m for n, m in enumerate(moments) if m.epoch <= 30} == begun
    for epoch, expected in enumerate(at_epoch):
        assert progress_at(schedule, epoch, steps, stride) == expected


@given(SCHEDULES, st.integers(1, 7), st.integers(1, 3))
def test_with_fixed_lengths_the_soonest_is_the_only_time(schedule, steps, stride):
    assert timeline(soonest(schedule), steps, stride) == timeline(schedule, steps, stride)


def test_the_soonest_of_what_depends_on_logs():
    schedule = schedule_of(OnPlateau(patience=2), lambda logs: True, OnPlateau() | 2, None)
    assert [m.epoch for m in timeline(soonest(schedule), 5)] == [0, 3, 4, 6]
    assert [phase.frozen for phase in soonest(schedule).phases] == [()] * 4


@given(SCHEDULES, st.integers(1, 7), st.integers(1, 3))
def test_the_end_of_a_phase_is_the_beginning_of_the_next(schedule, steps, stride):
    moments = timeline(schedule, steps, stride)
    for n, (begun, end) in enumerate(itertools.pairwise(moments)):
        present = Progress(schedule, n, schedule.phases[n].trigger.begin())
        found = end_of_phase(present, begun, 10**6, steps, stride)
        assert found == end


def test_the_end_of_a_phase_from_its_middle():
    present = beginning(schedule_of(AfterSteps(12), None)).after_steps(7).after_epoch({})
    assert end_of_phase(present, Moment(1, 2), 9, 5) == Moment(2, 2)
    present = beginning(schedule_of(3, None)).after_epoch({})
    assert end_of_phase(present, Moment(1), 9, None) == Moment(3)


def test_a_phase_ends_with_the_fit_at_the_latest():
    assert end_of_phase(beginning(schedule_of(None)), Moment(0), 4, 5) == Moment(4)
    assert end_of_phase(beginning(schedule_of(9, None)), Moment(0), 4, 5) == Moment(4)


@pytest.mark.parametrize(
    ("end", "steps"),
    [(OnPlateau(), 5), (OnPlateau() | 4, 5), (AfterSteps(3), None)],
    ids=["a plateau", "a plateau with a bound", "steps of unknown epochs"],
)
def test_the_end_of_a_phase_may_not_be_known(end, steps):
    assert end_of_phase(beginning(schedule_of(end, None)), Moment(0), 9, steps) is None
