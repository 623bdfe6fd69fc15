"""Times left, from given seconds."""

import pytest

from keras_freeze.live.pace import Pace
from keras_freeze.schedules import Moment

HEAD, ALL = ("low",), ()


def epoch(pace, begin, seconds_a_step, key=HEAD, *, first_s=0.0, tail_s=0.0):
    """Let an epoch of four steps pass; return when it ends."""
    pace.begin_epoch(begin, key)
    now = begin
    for batch in range(4):
        pace.begin_batch(now, batch)
        now += seconds_a_step + (first_s if batch == 0 else 0.0)
    pace.end_epoch(now + tail_s)
    return now + tail_s


def test_nothing_is_known_before_a_step():
    pace = Pace(4)
    pace.begin_epoch(0.0, HEAD)
    assert pace.epoch_s is None
    assert pace.seconds_until(Moment(1), Moment(0)) is None


def test_within_the_first_epoch_a_compilation_does_not_count():
    pace = Pace(100)
    pace.begin_epoch(0.0, HEAD)
    for batch, now in enumerate([0.0, 60.0, 62.0, 64.0]):  # compiled for a minute
        pace.begin_batch(now, batch)
    assert pace.epoch_s == 200.0
    assert pace.seconds_until(Moment(1), Moment(0, 3)) == 194.0
    assert pace.seconds_until(Moment(0, 10), Moment(0, 3)) == 14.0
    assert pace.seconds_until(Moment(3), Moment(0, 3)) == 594.0


def test_after_the_first_epoch_it_counts_without_its_longest_step_and_with_validation():
    pace = Pace(4)
    epoch(pace, 0.0, 2.0, first_s=30.0, tail_s=5.0)
    assert pace.epoch_s == 13.0
    assert pace.seconds_until(Moment(3), Moment(1)) == 26.0
    assert pace.seconds_until(Moment(1, 2), Moment(1)) == 6.5


def test_from_the_second_epoch_on_whole_ones_count_and_the_first_does_not():
    pace = Pace(4)
    now = epoch(pace, 0.0, 20.0, first_s=30.0)  # features are computed
    for seconds in (1.0, 3.0, 2.0):
        now = epoch(pace, now, seconds)
    assert pace.epoch_s == 8.0  # the median of 4, 12 and 8
    assert pace.seconds_until(Moment(6), Moment(4)) == 16.0


def test_what_trains_decides_and_is_remembered():
    pace = Pace(4)
    now = epoch(pace, epoch(pace, 0.0, 1.0), 1.0)
    pace.begin_epoch(now, ALL)
    assert pace.epoch_s is None
    now = epoch(pace, now, 10.0, ALL)
    assert pace.epoch_s == 40.0
    pace.begin_epoch(now, HEAD)  # in a race, its turn again
    assert pace.epoch_s == 4.0


def test_an_epoch_in_which_more_begins_to_train_is_none_of_either():
    pace = Pace(4)
    pace.begin_epoch(0.0, HEAD)
    for batch, now in enumerate([0.0, 1.0, 2.0]):
        pace.begin_batch(now, batch)
    pace.change(ALL)
    pace.begin_batch(2.0, 2)
    pace.end_epoch(4.0)
    assert pace.epoch_s is None


def test_the_number_of_steps_is_that_of_the_first_epoch_where_it_is_not_given():
    pace = Pace(None)
    epoch(pace, 0.0, 2.0)
    assert pace.steps == 4
    assert pace.seconds_until(Moment(2), Moment(1)) == 8.0


def test_several_batches_in_an_execution():
    pace = Pace(None)
    pace.begin_epoch(0.0, HEAD)
    for batch, now in ((0, 0.0), (4, 4.0), (8, 8.0), (12, 12.0)):
        pace.begin_batch(now, batch)
    pace.end_epoch(16.0)
    assert pace.steps == 16
    assert pace.epoch_s == 16.0


def test_it_never_says_less_than_nothing():
    pace = Pace(4)
    epoch(pace, 0.0, 1.0)
    pace.begin_epoch(4.0, HEAD)
    for batch, now in enumerate([4.0, 14.0, 24.0, 34.0]):
        pace.begin_batch(now, batch)
    assert pace.seconds_until(Moment(1, 2), Moment(1, 3)) == 0.0
    assert pace.seconds_until(Moment(2), Moment(1, 3)) >= 0.0


@pytest.mark.parametrize("steps", [1, 2])
def test_epochs_of_a_step_or_two(steps):
    pace, now = Pace(steps), 0.0
    for _ in range(3):
        pace.begin_epoch(now, HEAD)
        for batch in range(steps):
            pace.begin_batch(now, batch)
            now += 5.0
        pace.end_epoch(now)
    assert pace.epoch_s == 5.0 * steps
