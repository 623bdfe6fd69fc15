"""`Settling`, as a pure value: norms of intervals go in, what freezes comes out."""

import itertools

import numpy as np
import pytest
from hypothesis import given, strategies as st

from keras_freeze.schedules import AfterSteps, Outcome, Settling
from keras_freeze.schedules.adaptive import Setting

NAMES = ("block1", "block2", "block3", "block4", "head")


def setting_of(names=NAMES, epochs=10, steps=7):
    return Setting(tuple(names), epochs, steps_per_epoch=steps)


def outcomes_of(*norms, names=NAMES):
    return [Outcome((), measures=dict(zip(names, own, strict=False))) for own in norms]


def depth_after(settling, *norms, **arguments):
    decision = settling.decide(setting_of(**arguments), outcomes_of(*norms))
    return len(decision.phase.frozen)


def test_the_first_interval_only_records():
    settling = Settling(10, 50, 1, 0)
    assert depth_after(settling) == 0
    assert depth_after(settling, (1, 1, 1, 1, 1)) == 0


CASES = {
    # The relative changes are 0.1, 0.2, 0.3, 0.4; their median is 0.25.
    "below the median": ([(10, 10, 10, 10, 10), (11, 8, 13, 6, 99)], 2),
    "the lowest changes most": ([(10, 10, 10, 10, 10), (19, 10, 10, 10, 10)], 0),
    "nothing changes": ([(10, 10, 10, 10, 10), (10, 10, 10, 10, 10)], 0),
    "a norm of 0": ([(0, 10, 10, 10, 10), (5, 11, 12, 13, 1)], 2),
    "the next interval begins where the last one left off": (
        [(10, 10, 10, 10, 10), (11, 8, 13, 6, 99), (None, None, 13.1, 12, 99)],
        3,
    ),
}


@pytest.mark.parametrize(("norms", "depth"), CASES.values(), ids=CASES)
def test_what_lies_below_the_lowest_that_still_changes_freezes(norms, depth):
    assert depth_after(Settling(10, 50, 1, 0), *norms) == depth


def test_the_findings_name_each_group_its_change_and_the_threshold():
    outcomes = outcomes_of((10, 10, 10, 10, 10), (11, 8, 13, 6, 99))
    decision = Settling(10, 50, 1, 0).decide(setting_of(), outcomes)
    assert [(f.what, round(f.value, 6), f.threshold) for f in decision.findings] == [
        ("block1 freezes", 0.1, pytest.approx(0.25)),
        ("block2 freezes", 0.2, pytest.approx(0.25)),
    ]
    assert dict(decision.measured) == pytest.approx(
        {"block1": 0.1, "block2": 0.2, "block3": 0.3, "block4": 0.4}
    )


def test_intervals_have_the_same_length_but_the_last():
    decision = Settling(10, 50, 1, 0).decide(setting_of(epochs=10, steps=7), [])
    assert decision.phase.until == AfterSteps(7)
    assert not decision.is_final
    nine = outcomes_of(*[(1, 1, 1, 1, 1)] * 9)
    last = Settling(10, 50, 1, 0).decide(setting_of(), nine)
    assert last.is_final
    assert last.phase.until is None


def test_where_nothing_more_can_freeze_nothing_more_is_recorded():
    settling = Settling(10, 50, min_trainable=3, warm_up=0)
    decision = settling.decide(
        setting_of(), outcomes_of((10, 10, 10, 10, 10), (10, 11, 12, 19, 10))
    )
    assert len(decision.phase.frozen) == 2
    assert decision.is_final


def test_a_warm_up_freezes_nothing():
    norms = [(10, 10, 10, 10, 10), (11, 8, 13, 6, 99), (11.1, 8.2, 13.3, 9, 99)]
    assert depth_after(Settling(10, 50, 1, warm_up=2), *norms[:2]) == 0
    assert depth_after(Settling(10, 50, 1, warm_up=2), *norms) > 0


def test_data_of_unknown_length():
    with pytest.raises(ValueError, match=r"AutoFreeze\(intervals=\.\.\.\).*steps_per_epoch"):
        Settling(10, 50, 1, 0).decide(setting_of(steps=None), [])


@given(
    norms=st.lists(
        st.lists(st.one_of(st.just(0.0), st.floats(1e-3, 100)), min_size=5, max_size=5),
        min_size=2,
        max_size=9,
    ),
    percentile=st.floats(0, 100),
)
def test_as_an_independent_computation_says(norms, percentile):
    """AutoFreeze's rule, computed with arrays from the beginning of the training."""
    first = 0
    table = np.array(norms)
    for before, after in itertools.pairwise(table):
        change = np.divide(np.abs(before - after), before, out=np.zeros(5), where=before != 0)[
            first:4
        ]
        if len(change):
            reaching = np.flatnonzero(change >= np.percentile(change, percentile))
            first += int(reaching[0]) if len(reaching) else len(change)
    settling = Settling(20, percentile, 1, 0)
    assert depth_after(settling, *norms) == first
