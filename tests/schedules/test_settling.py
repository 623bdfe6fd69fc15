"""`Settling`, as a pure value: changes of groups go in, what freezes or unfreezes comes out."""

import dataclasses
import math

import numpy as np
import pytest
from hypothesis import given, strategies as st

from keras_freeze.schedules import Outcome, Settling, Tolerance
from keras_freeze.schedules.adaptive import Setting

NAMES = ("block1", "block2", "block3", "block4", "head")
NAN = float("nan")


def settling(percentile=50, intervals=10, min_trainable=1, warm_up=0, tolerance=None):
    title, identity = "change", "Some"
    return Settling(
        intervals, percentile, min_trainable, warm_up, title, identity, tolerance=tolerance
    )


def setting_of(names=NAMES, epochs=10, steps=7):
    return Setting(tuple(names), epochs, steps_per_epoch=steps)


def outcomes_of(*changes, values=None):
    """Outcomes in which groups changed so, from the input on; None for a group not measured."""
    return [
        Outcome(
            () if values is None else (values[n],),
            changes={
                name: change for name, change in zip(NAMES, own, strict=False) if change is not None
            },
        )
        for n, own in enumerate(changes)
    ]


def depth_after(schedule, *changes, **arguments):
    decision = schedule.decide(setting_of(), outcomes_of(*changes, **arguments))
    return len(decision.phase.frozen)


def test_the_first_interval_only_records():
    assert depth_after(settling()) == 0
    assert depth_after(settling(), (0.1, 0.2, 0.3, 0.4)) == 0


FIRST = (9, 9, 9, 9)
CASES = {
    "below the median": ([FIRST, (0.1, 0.2, 0.3, 0.4)], 2),
    "the lowest changes most": ([FIRST, (0.9, 0.0, 0.0, 0.0)], 0),
    "all change alike": ([FIRST, (0.0, 0.0, 0.0, 0.0)], 0),
    "the head takes no part": ([FIRST, (0.1, 0.2, 0.3, 0.4, 99.0)], 2),
    "the next interval begins where the last one left off": (
        [FIRST, (0.1, 0.2, 0.3, 0.4), (None, None, 0.1, 0.2)],
        3,
    ),
    "the lowest is not known": ([FIRST, (NAN, 0.1, 0.2, 0.3)], 0),
    "one above it is not known": ([FIRST, (0.1, NAN, 0.2, 0.9)], 1),
    "in one nothing trains": ([FIRST, (0.1, None, 0.2, 0.9)], 2),
    "nothing trains in the lowest": ([FIRST, (None, 0.1, 0.2, 0.9)], 2),
    "nothing trains in what lies below": ([FIRST, (None, 0.9, 0.1, 0.1)], 0),
    "nothing trains above": ([FIRST, (0.1, 0.2, None, 0.9)], 1),
    "one begins to change": ([FIRST, (math.inf, 0.1, 0.2, 0.3)], 0),
    "nothing is known": ([FIRST, (NAN, NAN, NAN, NAN)], 0),
}


@pytest.mark.parametrize(("changes", "depth"), CASES.values(), ids=CASES)
def test_what_lies_below_the_lowest_that_still_changes_freezes(changes, depth):
    assert depth_after(settling(), *changes) == depth


def test_the_findings_name_each_group_its_change_and_the_threshold():
    decision = settling().decide(setting_of(), outcomes_of(FIRST, (0.1, 0.2, 0.3, 0.4)))
    assert [(f.what, f.value, f.threshold, f.metric) for f in decision.evidence] == [
        ("block1 freezes", 0.1, pytest.approx(0.25), None),
        ("block2 freezes", 0.2, pytest.approx(0.25), None),
    ]
    assert dict(decision.measured) == {"block1": 0.1, "block2": 0.2, "block3": 0.3, "block4": 0.4}


@given(
    epochs=st.integers(1, 12),
    steps=st.integers(1, 30),
    intervals=st.integers(2, 15),
    stride=st.integers(1, 4),
)
def test_intervals_are_equal_parts_to_the_next_execution(epochs, steps, intervals, stride):
    setting, schedule = setting_of(epochs=epochs, steps=steps), settling(intervals=intervals)
    total, ends, outcomes = epochs * steps, [], []
    while not (decision := schedule.decide(setting, outcomes)).is_final:
        begin = ends[-1] if ends else 0
        in_epoch, wanted, done = begin % steps, decision.phase.until.steps, 0
        while done < wanted:  # the last execution of an epoch has what is left
            size = min(stride, steps - in_epoch)
            done, in_epoch = done + size, (in_epoch + size) % steps
        ends.append(begin + done)
        changes = {name: 1.0 for name in NAMES}
        outcomes.append(Outcome((), end=ends[-1] / steps, changes=changes))
    count = min(intervals, total)
    assert len(ends) == count - 1
    exact = [math.ceil(n * total / count) for n in range(1, count)]
    if stride == 1:
        assert ends == exact
    for end, due, before in zip(ends, exact, [0, *ends], strict=False):
        assert due <= end < max(due, before + 1) + stride


def test_what_is_decided_as_the_training_ends_changes_nothing():
    outcomes = outcomes_of(FIRST, FREEZES)
    outcomes[-1] = dataclasses.replace(outcomes[-1], end=10.0)
    decision = settling().decide(setting_of(epochs=10), outcomes)
    assert decision.phase.frozen == decision.evidence == ()
    assert len(decision.measured) == 4


def test_where_nothing_more_can_freeze_nothing_more_is_recorded():
    changes = [FIRST, (0.0, 0.1, 0.2, 0.9)]
    decision = settling(min_trainable=3).decide(setting_of(), outcomes_of(*changes))
    assert len(decision.phase.frozen) == 2
    assert decision.is_final


def test_a_warm_up_freezes_nothing():
    changes = [FIRST, (0.1, 0.2, 0.3, 0.4), (0.01, 0.02, 0.03, 0.5)]
    assert depth_after(settling(warm_up=2), *changes[:2]) == 0
    assert depth_after(settling(warm_up=2), *changes) > 0


def test_data_of_unknown_length():
    with pytest.raises(ValueError, match=r"AutoFreeze\(intervals=\.\.\.\).*steps_per_epoch"):
        settling().decide(setting_of(steps=None), [])


LOWER, HIGHER = Tolerance("val_loss", "min", 0.1), Tolerance("val_acc", "max", 0.1)
FREEZES, MORE = (0.1, 0.2, 0.3, 0.4), (None, None, 0.1, 0.2)  # two groups, then another
#: What changed, what the metric was, and how deep the model is frozen after each interval.
TOLERATED = {
    "no harm": (LOWER, [FIRST, FREEZES, FREEZES], [1.0, 0.9, 0.95], [0, 2, 3]),
    "within the margin": (LOWER, [FIRST, FREEZES, FREEZES], [1.0, 0.9, 1.0], [0, 2, 3]),
    "worse": (LOWER, [FIRST, FREEZES, FREEZES], [1.0, 0.9, 1.01], [0, 2, 0]),
    "a rising metric falls": (HIGHER, [FIRST, FREEZES, FREEZES], [0.5, 0.6, 0.49], [0, 2, 0]),
    "no number": (LOWER, [FIRST, FREEZES, FREEZES], [1.0, 0.9, NAN], [0, 2, 0]),
    "nothing is frozen": (LOWER, [FIRST, FREEZES], [1.0, 2.0], [0, 2]),
    "worse than before anything froze": (
        LOWER,
        [FIRST, FREEZES, FREEZES],
        [1.0, 2.0, 2.0],
        [0, 2, 0],
    ),
    "the last that froze": (
        LOWER,
        [FIRST, FREEZES, MORE, MORE],
        [1.0, 0.9, 0.9, 1.5],
        [0, 2, 3, 2],
    ),
    "each loss once, and a rest": (
        LOWER,
        [FIRST, FREEZES, MORE, MORE, MORE, MORE],
        [1.0, 0.9, 0.9, 1.5, 1.5, 1.5],
        [0, 2, 3, 2, 2, 3],
    ),
}


@pytest.mark.parametrize(
    ("tolerance", "changes", "values", "depths"), TOLERATED.values(), ids=TOLERATED
)
def test_what_froze_last_unfreezes_after_harm(tolerance, changes, values, depths):
    schedule = settling(tolerance=tolerance)
    found = [depth_after(schedule, *changes[:n], values=values) for n in range(1, len(depths) + 1)]
    assert found == depths


def test_harm_is_a_finding_by_its_metric():
    schedule = settling(tolerance=LOWER)
    outcomes = outcomes_of(FIRST, FREEZES, FREEZES, values=[1.0, 0.9, 1.5])
    evidence = schedule.decide(setting_of(), outcomes).evidence
    assert [(f.what, f.value, f.threshold, f.metric) for f in evidence] == [
        (f"{name} unfreezes", 1.5, pytest.approx(1.0), "val_loss") for name in ("block1", "block2")
    ]


def test_with_a_tolerance_the_end_is_open_until_the_last_interval():
    changes = [FIRST, (0.0, 0.1, 0.2, 0.9)]
    schedule = settling(min_trainable=3, tolerance=LOWER)
    outcomes = outcomes_of(*changes, values=[1.0, 1.0])
    assert not schedule.decide(setting_of(), outcomes).is_final


@given(
    table=st.lists(
        st.lists(st.one_of(st.just(0.0), st.floats(0, 100)), min_size=4, max_size=4),
        min_size=1,
        max_size=9,
    ),
    percentile=st.floats(0, 100),
    min_trainable=st.integers(1, 7),
)
def test_as_an_independent_computation_says(table, percentile, min_trainable):
    """AutoFreeze's rule, computed with arrays from the beginning of the training."""
    first = 0
    for changes in np.array(table)[1:]:
        own = changes[first:]
        if len(own):
            reaching = np.flatnonzero(own >= np.percentile(own, percentile))
            first += int(reaching[0]) if len(reaching) else len(own)
            first = max(0, min(first, 5 - min_trainable))
    schedule = settling(percentile, intervals=20, min_trainable=min_trainable)
    assert depth_after(schedule, *table) == first


def test_a_mode_of_the_metric():
    assert LOWER.limit(2.0) == pytest.approx(2.1)
    assert HIGHER.limit(0.5) == pytest.approx(0.4)
    assert not math.isfinite(Tolerance("val_loss", "min", math.inf).limit(1.0))


WHY = {
    "no interval is compared": ([], {}, "no interval was compared with one before"),
    "the lowest changes most": (
        [FIRST, (0.9, 0.1, 0.1, 0.1), (0.9, 0.1, 0.1, 0.1)],
        {},
        "block1 changed at least as much as percentile 50 of the groups below the head, "
        "2 times of 2",
    ),
    "all must train": ([FIRST, (0.9, 0.1, 0.1, 0.1)], {"min_trainable": 5}, ""),
    "the lowest is not known": ([FIRST, (NAN, 0.1, 0.1, 0.1)], {}, ""),
    "one froze": ([FIRST, (0.1, 0.9, 0.9, 0.9)], {}, ""),
}


@pytest.mark.parametrize(("changes", "arguments", "why"), WHY.values(), ids=WHY)
def test_it_is_said_why_nothing_froze(changes, arguments, why):
    verdict = settling(**arguments).verdict(setting_of(), outcomes_of(*changes))
    found = verdict.partition("; nothing froze, since ")[2]
    assert found == why
